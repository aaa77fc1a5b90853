"""Steer a running faultfs from another process. Blocks; each command has a deadline."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec

from failover.drill.faultfs.spec import Fault

_DEADLINE_S = 5.0
_ANSWER_BYTES_MAX = 64 * 1024 * 1024


class FaultFsAway(Exception):
    """Nobody answers at the socket: faultfs does not run, or hangs."""


class FaultFsRefused(Exception):
    """It answered that it will not; the sentence says why."""


class FaultFsClient:
    """One file system, by its socket. Raises FaultFsAway and FaultFsRefused."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def arm(self, fault: Fault) -> int:
        """Its number, by which it is healed."""
        number: int = self.ask({"do": "arm", "fault": msgspec.to_builtins(fault)})["id"]
        return number

    def disarm(self, number: int | None = None) -> int:
        """Heal one fault or all: how many."""
        command = {"do": "disarm"} if number is None else {"do": "disarm", "id": number}
        healed: int = self.ask(command)["healed"]
        return healed

    def armed(self) -> list[dict[str, Any]]:
        """What is armed, and how often each has struck."""
        found: list[dict[str, Any]] = self.ask({"do": "list"})["armed"]
        return found

    def fired(self, after: int = 0) -> list[dict[str, Any]]:
        """What has struck since event `after`."""
        found: list[dict[str, Any]] = self.ask({"do": "fired", "after": after})["fired"]
        return found

    def healed(self) -> list[dict[str, Any]]:
        """Strikes of which nothing is left on the disk, and what healed them."""
        found: list[dict[str, Any]] = self.ask({"do": "healed"})["healed"]
        return found

    def lose_unsynced(self) -> dict[str, Any]:
        """As if the machine had lost power. Whoever had files open must be dead already."""
        return self.ask({"do": "lose_unsynced"})

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command, its answer."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_DEADLINE_S)
                connection.connect(str(self._path))
                connection.sendall(msgspec.json.encode(command) + b"\n")
                with connection.makefile("rb") as answers:
                    line = answers.readline(_ANSWER_BYTES_MAX)
        except OSError as error:
            raise FaultFsAway(f"faultfs does not answer at {self._path}: {error}") from error
        if not line:
            raise FaultFsAway(f"faultfs at {self._path} ended before it answered")
        answer: dict[str, Any] = msgspec.json.decode(line)
        if not answer.get("ok"):
            raise FaultFsRefused(str(answer.get("error")))
        return answer
