"""One postmaster as a process: started as a child or adopted, and watched, so that its end is known at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path

from replication.errors import ReplicationError
from replication.proc import ProcessId, alive, identify
from replication.threads import in_thread


class PostmasterProcess:
    """A live postmaster, or one that has ended: then `exited` holds the sentence that says how."""

    def __init__(self, identity: ProcessId, child: subprocess.Popen[bytes] | None) -> None:
        """Must be made on the event loop. Raises ReplicationError when the process is already gone and not a child."""
        self.identity = identity
        self.adopted = child is None
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._child = child
        try:
            self._pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError as error:
            raise ReplicationError(f"the postmaster {identity} is gone") from error
        if child is None and not alive(identity):
            os.close(self._pidfd)
            raise ReplicationError(f"the postmaster {identity} is gone")
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    @property
    def running(self) -> bool:
        """False from the moment its end was seen."""
        return not self.exited.done()

    def send(self, number: signal.Signals) -> None:
        """Signal exactly this process; nothing happens when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def reload(self) -> None:
        """SIGHUP: read the settings and pg_hba again; the postmaster passes it on to its children."""
        self.send(signal.SIGHUP)

    def close(self) -> None:
        """Stop watching; the process itself goes on."""
        if self.running:
            self._unwatch()
            self.exited.cancel()
        if self._child is not None and self._child.returncode is None:
            # Popen would warn in its finaliser about a process that is left running on purpose.
            self._child.returncode = 0

    def _ended(self) -> None:
        self._unwatch()
        code = self._child.poll() if self._child is not None else None
        self.exited.set_result(exit_sentence(code))

    def _unwatch(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)


async def spawn(command: list[str], output: Path) -> PostmasterProcess:
    """Start a postmaster as a direct child, in a session of its own: neither the terminal's Ctrl-C nor this agent's end
    reaches it. What it says before its log collector runs goes to `output`. Raises OSError."""
    starting = asyncio.ensure_future(in_thread(_popen, command, output))
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be called back: what it has started is ended, so that a fence finds nothing half-begun.
        child = await starting
        child.kill()
        await in_thread(child.wait)
        raise
    identity = identify(child.pid)
    if identity is None:
        code = await in_thread(child.wait)
        raise ReplicationError(f"{command[-1]} ended at once: {exit_sentence(code)}; see {output}")
    return PostmasterProcess(identity, child)


def adopt(identity: ProcessId) -> PostmasterProcess | None:
    """Watch a postmaster that another agent started; None when it is gone."""
    try:
        return PostmasterProcess(identity, None)
    except ReplicationError:
        return None


def exit_sentence(code: int | None) -> str:
    """How a process ended, from its return code as subprocess gives it; None: not a child, so nobody can know."""
    if code is None:
        return "ended while an agent that had not started it was watching"
    if code < 0:
        return f"killed by signal {-code}"
    return f"exited with code {code}"


def _popen(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            env=clean_environment(),
            cwd="/",
        )
    finally:
        os.close(descriptor)


def clean_environment() -> dict[str, str]:
    """The own environment without what would change how PostgreSQL or libpq behave."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}
