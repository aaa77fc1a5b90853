"""A link with real sockets: transparent while it is open, and cut or frozen as the control socket says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from compose.links import LinkSettings, LinkState
from compose.listener import is_listening
from compose.processes import child_command, child_environment
from compose.relay import Relay
from tests.ports import HOST, free_port

DEADLINE_S = 10
SILENCE_S = 0.3
"""How long nothing must come; what is not frozen needs less than a millisecond."""


@asynccontextmanager
async def relay_to(target_port: int) -> AsyncIterator[Relay]:
    """A relay that runs."""
    relay = Relay("link", LinkSettings(free_port(), target_port))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(relay.run())
        yield relay
        running.cancel()


@asynccontextmanager
async def echo(port: int) -> AsyncIterator[None]:
    """Says back what it was told, and at its end "bye"."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
            writer.write(b"bye")
            writer.close()

    server = await asyncio.start_server(serve, HOST, port)
    try:
        yield
    finally:
        server.close()


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.wait_for(asyncio.open_connection(HOST, port), DEADLINE_S)


async def until_accepting(relay: Relay) -> None:
    until = time.monotonic() + DEADLINE_S
    while not is_listening(HOST, relay.ports.listen_port):
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


async def until_refusing(port: int) -> None:
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            _reader, writer = await connect(port)
        except ConnectionRefusedError:
            return
        writer.transport.abort()
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


async def says(reader: asyncio.StreamReader, count: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(count), DEADLINE_S)


async def says_nothing(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), SILENCE_S)


async def test_an_open_link_forwards_every_byte_and_passes_a_half_close_on() -> None:
    port, sent = free_port(), os.urandom(3_000_000)
    async with echo(port), relay_to(port) as relay:
        await until_accepting(relay)
        reader, writer = await connect(relay.ports.listen_port)
        got = asyncio.create_task(reader.read(-1))
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
        assert await asyncio.wait_for(got, DEADLINE_S) == sent + b"bye"
        writer.close()


async def test_a_link_refuses_while_its_target_does_and_accepts_once_it_listens() -> None:
    port = free_port()
    async with relay_to(port) as relay:
        await until_refusing(relay.ports.listen_port)
        async with echo(port):
            await until_accepting(relay)
            reader, writer = await connect(relay.ports.listen_port)
            writer.write(b"x")
            assert await says(reader, 1) == b"x"
        # the connection is still there and keeps the port in use, yet nobody listens
        await until_refusing(relay.ports.listen_port)
        writer.close()


async def test_a_client_that_was_accepted_just_before_its_target_died_is_reset() -> None:
    """Between two looks at the target: the handshake is over when the proxy learns that nobody is there."""
    port = free_port()
    listener = socket.create_server((HOST, port))
    async with relay_to(port) as relay:
        await until_accepting(relay)
        with socket.create_connection((HOST, relay.ports.listen_port)) as client:
            listener.close()  # before the proxy's loop had a chance to accept
            client.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), DEADLINE_S)


async def test_the_reset_of_one_side_resets_the_other() -> None:
    port = free_port()
    with socket.create_server((HOST, port)) as listener:
        async with relay_to(port) as relay:
            await until_accepting(relay)
            reader, writer = await connect(relay.ports.listen_port)
            accepted, _address = await asyncio.to_thread(listener.accept)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), DEADLINE_S)
            writer.close()


async def test_a_cut_link_resets_what_it_has_refuses_what_comes_and_works_again_when_it_is_healed() -> None:
    port = free_port()
    async with echo(port), relay_to(port) as relay:
        await until_accepting(relay)
        reader, writer = await connect(relay.ports.listen_port)
        writer.write(b"x")
        assert await says(reader, 1) == b"x"
        await relay.set_state(LinkState.CUT)
        assert relay.connections == 0
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), DEADLINE_S)
        with pytest.raises(ConnectionRefusedError):
            await connect(relay.ports.listen_port)
        await relay.set_state(LinkState.OPEN)
        reader, writer = await connect(relay.ports.listen_port)
        writer.write(b"y")
        assert await says(reader, 1) == b"y"
        writer.close()


async def test_a_frozen_link_holds_what_it_has_lets_connects_time_out_and_loses_no_byte_when_it_is_healed() -> None:
    port = free_port()
    async with echo(port), relay_to(port) as relay:
        await until_accepting(relay)
        reader, writer = await connect(relay.ports.listen_port)
        writer.write(b"x")
        assert await says(reader, 1) == b"x"
        await relay.set_state(LinkState.FROZEN)
        writer.write(b"held")
        await says_nothing(reader)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.open_connection(HOST, relay.ports.listen_port), SILENCE_S)
        late = asyncio.create_task(connect(relay.ports.listen_port))
        await says_nothing(reader)
        assert not late.done()
        await relay.set_state(LinkState.OPEN)
        assert await says(reader, 4) == b"held"
        late_reader, late_writer = await late  # its SYN is sent again, after a second
        late_writer.write(b"z")
        assert await says(late_reader, 1) == b"z"
        late_writer.close()
        writer.close()


async def test_an_end_is_not_passed_on_before_the_link_is_healed() -> None:
    port = free_port()
    async with echo(port), relay_to(port) as relay:
        await until_accepting(relay)
        reader, writer = await connect(relay.ports.listen_port)
        writer.write(b"x")
        assert await says(reader, 1) == b"x"
        await relay.set_state(LinkState.FROZEN)
        writer.write_eof()
        await says_nothing(reader)
        await relay.set_state(LinkState.OPEN)
        assert await asyncio.wait_for(reader.read(-1), DEADLINE_S) == b"bye"
        writer.close()


@pytest.mark.parametrize(("state", "arrives"), [(LinkState.FROZEN_TO, False), (LinkState.FROZEN_FROM, True)])
async def test_one_way_can_be_frozen_alone(state: LinkState, arrives: bool) -> None:
    port = free_port()
    with socket.create_server((HOST, port)) as listener:
        async with relay_to(port) as relay:
            await until_accepting(relay)
            reader, writer = await connect(relay.ports.listen_port)
            accepted, _address = await asyncio.to_thread(listener.accept)
            with accepted:
                theirs, ours = await asyncio.open_connection(sock=accepted)
                await relay.set_state(state)
                ours.write(b"back")
                writer.write(b"forth")
                passing, held = (theirs, reader) if arrives else (reader, theirs)
                assert await says(passing, 4) in (b"fort", b"back")
                await says_nothing(held)
                ours.close()
            writer.close()


def lines_to(path: Path, *commands: object) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        with client.makefile("rwb") as stream:
            answers = []
            for command in commands:
                stream.write((command if isinstance(command, bytes) else msgspec.json.encode(command)) + b"\n")
                stream.flush()
                answers.append(msgspec.json.decode(stream.readline(), type=dict[str, Any]))
    return answers


def takes_commands(control: Path) -> bool:
    """The socket is there before anybody listens at it."""
    try:
        return bool(lines_to(control, {"command": "list"}))
    except OSError:
        return False


@contextmanager
def proxies(root: Path, target_port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path, int]]:
    """The process as `locum up` starts it, with one link: process, control socket, port of the link."""
    control, port, settings = root / "links.sock", free_port(), root / "proxies.toml"
    link = {"listen_port": port, "target_port": target_port}
    settings.write_bytes(msgspec.toml.encode({"control": str(control), "links": {"server-controller": link}}))
    with (root / "proxies.log").open("wb") as log:
        process = subprocess.Popen(
            child_command("proxies", settings), stdout=log, stderr=log, env=child_environment(), start_new_session=True
        )
    try:
        until = time.monotonic() + DEADLINE_S
        while not takes_commands(control):
            assert process.poll() is None and time.monotonic() < until, (root / "proxies.log").read_text()
            time.sleep(0.01)
        yield process, control, port
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def test_the_control_socket_is_private_obeys_tells_and_refuses(tmp_path: Path) -> None:
    with socket.create_server((HOST, free_port())) as listener:
        target = listener.getsockname()[1]
        with proxies(tmp_path, target) as (process, control, port):
            assert control.stat().st_mode & 0o777 == 0o600
            listed, cut, relisted, *refused = lines_to(
                control,
                {"command": "list"},
                {"link": "server-controller", "state": "cut"},
                {"command": "list"},
                {"link": "moon-earth", "state": "cut"},
                {"link": "server-controller", "state": "broken"},
                {"command": "reboot"},
                b"no json",
            )
            told = {"state": "open", "connections": 0, "listen_port": port, "target_port": target}
            assert listed == {"links": {"server-controller": told}}
            assert cut == {"link": "server-controller", "state": "cut"}
            assert relisted["links"]["server-controller"]["state"] == "cut"
            assert [list(answer) for answer in refused] == [["error"]] * 4
            assert "server-controller" in refused[0]["error"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            assert not control.exists()


def test_it_ends_on_sigterm_with_connections_that_are_open_and_frozen(tmp_path: Path) -> None:
    with socket.create_server((HOST, free_port())) as listener, contextlib.ExitStack() as held:
        with proxies(tmp_path, listener.getsockname()[1]) as (process, control, port):
            while not is_listening(HOST, port):
                time.sleep(0.01)
            client = held.enter_context(socket.create_connection((HOST, port), DEADLINE_S))
            held.enter_context(listener.accept()[0])
            assert lines_to(control, {"link": "server-controller", "state": "frozen"})[0]["state"] == "frozen"
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_port_that_is_taken_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server((HOST, free_port())) as taken:
        settings = tmp_path / "proxies.toml"
        port = taken.getsockname()[1]
        link = {"listen_port": port, "target_port": 1}
        settings.write_bytes(msgspec.toml.encode({"control": str(tmp_path / "s"), "links": {"x": link}}))
        command = child_command("proxies", settings)
        ended = subprocess.run(command, check=False, env=child_environment(), capture_output=True, timeout=30)
        assert ended.returncode == 1
        assert b"a link cannot listen" in ended.stderr
