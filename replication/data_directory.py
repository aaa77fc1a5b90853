"""The data directory before a postmaster runs in it: what it is, making it, making it ready for a role."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

from replication.errors import ActionFailed
from replication.model import WAL_SEGMENT_MB, DataDirectory, Reason
from replication.node import SUPERUSER, Node
from replication.proc import all_stats, servers_of
from replication.threads import in_thread
from replication.tools import run_tool
from replication.wire.secrets import write_private

_INITDB_DEADLINE_S = 120.0
_BUILTIN_LOCALE_SINCE = 17
_SIGNALS = ("standby.signal", "recovery.signal", "promote", "fallback_promote")


def inspect(node: Node) -> DataDirectory:
    """What lies there. `half_built`: an initdb or a rebuild did not end; it cannot be started. Blocks on the disk."""
    try:
        entries = [entry.name for entry in node.data_dir.iterdir()]
    except FileNotFoundError:
        return DataDirectory.EMPTY
    except NotADirectoryError:
        return DataDirectory.FOREIGN
    if not entries:
        return DataDirectory.EMPTY
    if building(node) is not None:
        return DataDirectory.HALF_BUILT
    if _read_version(node.data_dir) != str(node.installation.version[0]):
        return DataDirectory.FOREIGN
    whole = (node.data_dir / "global/pg_control").exists()
    return DataDirectory.PRESENT if whole else DataDirectory.HALF_BUILT


def foreign_sentence(node: Node) -> str | None:
    """Why the directory is not to be touched; None when it may be. Blocks."""
    if inspect(node) is not DataDirectory.FOREIGN:
        return None
    version = _read_version(node.data_dir)
    if version is None:
        return f"{node.data_dir} holds files that are not PostgreSQL's; choose another directory"
    return (
        f"{node.data_dir} was made by PostgreSQL {version}, and this node runs {node.installation.version_text}; "
        "run it with that version, or upgrade it with pg_upgrade"
    )


async def initdb(node: Node) -> None:
    """Make the cluster: data checksums, UTF-8, SCRAM. What fails or is cancelled leaves an empty directory again.

    Raises ActionFailed: WRONG_STATE when the directory is not empty, FAILED or DEADLINE.
    """
    pwfile = await in_thread(_begin_initdb, node)
    command = node.installation.command(
        "initdb",
        f"--pgdata={node.data_dir}",
        f"--username={SUPERUSER}",
        f"--pwfile={pwfile}",
        "--auth=scram-sha-256",
        "--data-checksums",
        f"--wal-segsize={WAL_SEGMENT_MB}",
        "--encoding=UTF8",
        *_locale(node),
    )
    try:
        await run_tool(command, deadline_s=_INITDB_DEADLINE_S)
    except BaseException:
        await asyncio.shield(in_thread(clear_interrupted_initdb, node))
        raise
    finally:
        pwfile.unlink(missing_ok=True)
    await in_thread(unmark_building, node)


def prepare(node: Node, *, standby: bool) -> None:
    """Before every start: nothing inherited from ALTER SYSTEM, no stale signal files, standby.signal by role. Blocks.

    Raises ActionFailed(WRONG_STATE) when a process of an earlier postmaster is still at work there.
    """
    own = servers_of(str(node.data_dir), list(all_stats()))
    if own:
        raise ActionFailed(Reason.WRONG_STATE, f"process {own[0]} of an earlier postmaster is still at work here")
    for name in _SIGNALS:
        (node.data_dir / name).unlink(missing_ok=True)
    (node.data_dir / "postgresql.auto.conf").write_text("", encoding="ascii")
    if standby:
        (node.data_dir / "standby.signal").touch(mode=0o600)
    # PostgreSQL takes any live process with the pid in postmaster.pid for a postmaster. This one's is known to be dead,
    # and its pid may have been given to another process since.
    (node.data_dir / "postmaster.pid").unlink(missing_ok=True)
    node.installation.own(node.data_dir)


def empty(directory: Path) -> None:
    """Remove what is in it, pg_control first (a directory without it cannot start), and keep the directory itself,
    which may be a mount point. Blocks."""
    (directory / "global/pg_control").unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def mark_building(node: Node, what: str) -> None:
    """From now until `unmark_building` the directory counts as half-built, also after this agent's death."""
    write_private(_mark(node), what + "\n")


def unmark_building(node: Node) -> None:
    """The directory is whole, or empty, again."""
    _mark(node).unlink(missing_ok=True)


def building(node: Node) -> str | None:
    """What was making the directory (`initdb`, `rebuild`) and has not ended."""
    with contextlib.suppress(FileNotFoundError):
        return _mark(node).read_text(encoding="utf-8").strip()
    return None


def clear_interrupted_initdb(node: Node) -> None:
    """An initdb that died with its agent left nothing of worth: empty the directory again. Blocks."""
    if building(node) == "initdb":
        if node.data_dir.exists():
            empty(node.data_dir)
        unmark_building(node)


def _begin_initdb(node: Node) -> Path:
    node.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if inspect(node) is not DataDirectory.EMPTY:
        raise ActionFailed(Reason.WRONG_STATE, f"{node.data_dir} is not empty: initdb is refused")
    mark_building(node, "initdb")
    pwfile = node.conf_dir / "pwfile"
    write_private(pwfile, node.secret("superuser") + "\n")
    node.installation.own(pwfile)
    node.installation.own(node.data_dir)
    return pwfile


def _mark(node: Node) -> Path:
    return node.settings.state_dir / "building"


def _read_version(data_dir: Path) -> str | None:
    try:
        return (data_dir / "PG_VERSION").read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _locale(node: Node) -> list[str]:
    if node.installation.version[0] >= _BUILTIN_LOCALE_SINCE:
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    return ["--locale=C"]
