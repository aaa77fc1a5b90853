"""What must hold before `locum up` makes or starts anything. Every refusal leaves the directory as it was."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compose.adopt import running_postmaster
from compose.errors import UpRefused
from compose.layout import HOST, NODES, Layout, Ports
from compose.options import UpOptions
from failover.drill.faultfs.launch import why_no_fuse

FIRST_START_BYTES = 400 * 1024 * 1024
"""Two fresh nodes with their first WAL segments, the logs and the store."""
LATER_START_BYTES = 64 * 1024 * 1024
UNIX_PATH_BYTES_MAX = 107


def check_options(options: UpOptions) -> None:
    """Refuse a number of nodes other than two, ports outside 1024..65513 (65495 with --proxied), and a data directory of
    which the control socket's path is too long. Raises UpRefused."""
    if options.nodes != len(NODES):
        raise UpRefused(
            f"--nodes {options.nodes} is refused: with other than 2 nodes a standby could confirm a write that the "
            "promoted one does not have (quorum promotion is not designed yet); leave --nodes out"
        )
    last = Ports(0, options.proxied).highest
    if not 1024 <= options.port <= 65535 - last:
        room = f"leaves no room for the ports up to PORT + {last}; choose 1024 to {65535 - last}"
        raise UpRefused(f"--port {options.port} {room}")
    layout = Layout(options.data)
    if options.proxied:
        _check_socket("--proxied", layout.links_socket)
    if options.faultfs:
        _check_socket("--faultfs", layout.faultfs_socket(NODES[0]))
        why = why_no_fuse()
        if why is not None:
            raise UpRefused(f"--faultfs {why}")
    if not 0 <= options.demo_practitioners <= 80:
        raise UpRefused(f"--demo-practitioners {options.demo_practitioners}: the demo clinic has 0 to 80 practitioners")


def _check_socket(flag: str, path: Path) -> None:
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise UpRefused(
            f"{flag}: {path} is longer than the {UNIX_PATH_BYTES_MAX} bytes of a unix socket's path; "
            "choose a shorter directory with --data"
        )


def check_directory(layout: Layout) -> None:
    """The directory can be written, is ours or empty, and its disk has room. Makes nothing. Raises UpRefused."""
    place = _existing(layout.root)
    if not place.is_dir():
        raise UpRefused(f"{place} is not a directory; choose another with --data")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UpRefused(f"{place} cannot be written by this user; choose another directory with --data")
    first = not layout.secrets.exists()
    if first and place == layout.root and any(path != layout.lock for path in layout.root.iterdir()):
        raise UpRefused(f"{layout.root} is neither empty nor made by `locum up`; choose another with --data")
    needed = FIRST_START_BYTES if first else LATER_START_BYTES
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UpRefused(
            f"the disk of {place} has {free // 1024**2} MB free, and `locum up` needs {needed // 1024**2} MB; "
            "make room, or choose another disk with --data"
        )


def check_version(layout: Layout, major: int) -> None:
    """Every data directory was made by this major version of PostgreSQL. Raises UpRefused."""
    places = [(node, place(node)) for node in NODES for place in (layout.pgdata, layout.backing)]
    for node, pgdata in places:
        try:
            made_by = (pgdata / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                continue  # a faulty disk whose process died: the files lie in the backing directory
            raise UpRefused(f"the data directory {pgdata} of node {node} cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise UpRefused(f"the data directory {pgdata} of node {node} cannot be read: {error}") from error
        if made_by != str(major):
            raise UpRefused(
                f"the data directory {pgdata} of node {node} was made by PostgreSQL {made_by}, but PostgreSQL {major} "
                f"was found; give the binaries of version {made_by} with --pg-bindir"
            )


def check_ports(layout: Layout, ports: Ports, *, ours: set[int]) -> None:
    """Each port is free, in `ours` (of leftovers that are about to end), or its own node's postmaster's.

    Raises UpRefused.
    """
    for node in NODES:
        running = running_postmaster(layout.pgdata(node))
        if running is None:
            continue
        pid, port = running
        if port != ports.postgres(node):
            raise UpRefused(
                f"PostgreSQL of node {node} still runs on port {port} (process {pid}), from an earlier "
                f"`locum up --port {port - ports.postgres(node) + ports.base}`; use that port again"
            )
        ours = ours | {port}
    for port, owner in ports.named().items():
        if port not in ours and not _is_free(port):
            raise UpRefused(
                f"port {port} (for {owner}) is in use by another process; stop it, or choose another with --port"
            )


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the directory's lock, so that there is one `up` on it. Raises UpRefused when another one holds it."""
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UpRefused(
                f"another `locum up` runs on {layout.root}; stop it (Ctrl-C there), or choose another with --data"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def all_or_nothing(layout: Layout, *, remove_root: bool) -> Iterator[None]:
    """When the block fails on a directory that held nothing but the lock, take away all that it made.

    Only under the lock (`exclusive`), so that nobody else's files go. Raises UpRefused in place of an OSError such as a
    full disk.
    """
    root = layout.root
    fresh = all(path == layout.lock for path in root.iterdir())
    try:
        yield
    except BaseException as error:
        if fresh:
            _remove(root, keep_itself=not remove_root)
        if isinstance(error, OSError):
            what = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot be used: {error.strerror}"
            kept = "nothing was made" if fresh else "what was there is unchanged"
            raise UpRefused(f"the disk of {root} {what}; {kept}; make room, or choose another with --data") from error
        raise


def _remove(root: Path, *, keep_itself: bool) -> None:
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not keep_itself:
        root.rmdir()


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
