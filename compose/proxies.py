"""The process that hosts every link of `locum up --proxied`, and the socket by which links are cut and healed.

The socket (unix, mode 0600) takes a line of JSON a command and answers each with a line:

    {"link": "controller-agent-a", "state": "frozen"}   ->  {"link": "controller-agent-a", "state": "frozen"}
    {"command": "list"}                                 ->  {"links": {"controller-agent-a": {"state": …, …}, …}}
    anything else                                       ->  {"error": "…"}

A command is answered when it is in force. Every process begins with all links open.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from compose import links
from compose.errors import BadSettings
from compose.links import LinkState, ProxiesSettings
from compose.relay import Relay
from replication.wire import process
from replication.wire.errors import PortOccupied

_LINE_BYTES_MAX = 4_096
_CLIENTS_MAX = 32


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either `link` with the `state` that it shall have, or `command`, which can only be "list"."""

    link: str | None = None
    state: LinkState | None = None
    command: str | None = None


class Control:
    """What the socket does with the relays, by the name of their link."""

    def __init__(self, relays: dict[str, Relay]) -> None:
        self._relays = relays
        self._clients = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes, sends a line of more than 4096 bytes, or is one too many."""
        self._clients += 1
        try:
            while self._clients <= _CLIENTS_MAX and (line := await reader.readline()):
                answer = await self.answer(line)
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            return  # gone, or a line without an end
        finally:
            self._clients -= 1
            writer.close()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """Carry out one command."""
        try:
            command = msgspec.json.decode(line, type=Command)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return {"error": f"not a command: {error}"}
        if command.command == "list":
            return {"links": {name: _told(relay) for name, relay in self._relays.items()}}
        if command.link is None or command.state is None:
            return {"error": 'a command is {"link": NAME, "state": STATE} or {"command": "list"}'}
        relay = self._relays.get(command.link)
        if relay is None:
            return {"error": f"there is no link {command.link!r}; there are {', '.join(self._relays)}"}
        await relay.set_state(command.state)
        return {"link": relay.name, "state": relay.state}


def run(settings_file: Path) -> int:
    """Run until SIGTERM or SIGINT, and return the exit code."""

    async def main() -> int:
        return await host(links.load(settings_file))

    return process.run(main, "proxies", expected=(BadSettings,))


async def host(settings: ProxiesSettings) -> int:
    """Host the links until a signal. Raises PortOccupied."""
    relays = {name: Relay(name, ports) for name, ports in settings.links.items()}
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(relay.run(), name=name) for name, relay in relays.items()]
            running.append(tasks.create_task(_listen(settings.control, Control(relays)), name="control"))
            await process.until_signal()
            for task in running:
                task.cancel()
    except* OSError as errors:
        raise PortOccupied(f"a link cannot listen: {errors.exceptions[0]}") from errors
    return 0


async def _listen(path: Path, control: Control) -> None:
    """Take commands until cancelled. Raises OSError when there can be no such socket."""
    server = await asyncio.start_unix_server(control.serve, sock=_bound(path), limit=_LINE_BYTES_MAX)
    try:
        async with server:
            await server.serve_forever()
    finally:
        _remove(path)


def _bound(path: Path) -> socket.socket:
    """A unix socket of mode 0600 in place of the one that an earlier process may have left."""
    _remove(path)
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _told(relay: Relay) -> dict[str, Any]:
    return {"state": relay.state, "connections": relay.connections, **msgspec.structs.asdict(relay.ports)}
