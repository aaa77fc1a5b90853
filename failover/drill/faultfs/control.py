"""How a running faultfs is steered: a unix socket, 0600, one JSON object a line each way.

    {"do": "arm", "fault": {"kind": "eio", "op": "read", "files": "relation"}}  ->  {"ok": true, "id": 1}
    {"do": "disarm", "id": 1}      one fault, or all without `id`: {"ok": true, "healed": 1}
    {"do": "list"}                 {"ok": true, "armed": [{"id", "fault", "fired", "over"}], "unsynced_bytes": 0}
    {"do": "fired", "after": 0}    {"ok": true, "fired": [{"number", "fault", "kind", "op", "path", "block", …}]}
    {"do": "healed"}               {"ok": true, "healed": [{"fired", "by", "at"}]}: strikes of which nothing is left on the disk
    {"do": "lose_unsynced"}        the machine loses power: {"ok": true, "files": 3, "blocks": 17, "renames": 0}

What cannot be done is answered with {"ok": false, "error": "…"}, and nothing has changed then.
"""

from __future__ import annotations

import os
import socketserver
import threading
from pathlib import Path
from typing import Any

import msgspec

from failover.drill.faultfs.namespace import Namespace
from failover.drill.faultfs.overlay import Overlay
from failover.drill.faultfs.spec import FaultRefused, parse_fault
from failover.drill.faultfs.table import FaultTable

_LINE_BYTES_MAX = 65_536


class Control:
    """Answers commands. Pure but for what it is given."""

    def __init__(self, table: FaultTable, overlay: Overlay, names: Namespace) -> None:
        self._table = table
        self._overlay = overlay
        self._names = names

    def answer(self, line: bytes) -> dict[str, Any]:
        """To one line."""
        try:
            command = msgspec.json.decode(line)
            if not isinstance(command, dict):
                raise FaultRefused("a command is a JSON object")
            return {"ok": True, **self._do(command)}
        except (msgspec.DecodeError, FaultRefused) as error:
            return {"ok": False, "error": str(error)}

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        what = command.get("do")
        if what == "arm":
            return {"id": self._table.arm(parse_fault(command.get("fault")))}
        if what == "disarm":
            return {"healed": self._table.disarm(_number(command, "id", None))}
        if what == "list":
            return {"armed": self._table.armed(), "unsynced_bytes": self._overlay.dirty_bytes()}
        if what == "fired":
            return {"fired": msgspec.to_builtins(self._table.fired(_number(command, "after", 0) or 0))}
        if what == "healed":
            return {"healed": msgspec.to_builtins(self._table.healed())}
        if what == "lose_unsynced":
            files, blocks = self._overlay.lose_everything()
            return {"files": files, "blocks": blocks, "renames": self._names.undo_lost_renames()}
        raise FaultRefused(f"no such command: {what!r}; there are arm, disarm, list, fired, healed and lose_unsynced")


def _number(command: dict[str, Any], name: str, default: int | None) -> int | None:
    value = command.get(name, default)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise FaultRefused(f"{name} is a number")
    return value


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, control: Control) -> None:
        self.control = control
        super().__init__(path, _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline(_LINE_BYTES_MAX):
            self.wfile.write(msgspec.json.encode(self.server.control.answer(line)) + b"\n")


def listen(path: Path, control: Control) -> None:
    """Listen in a thread of its own, from now on until the process ends."""
    path.unlink(missing_ok=True)
    umask = os.umask(0o177)
    try:
        server = _Server(str(path), control)
    finally:
        os.umask(umask)
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()
