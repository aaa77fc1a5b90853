"""Serve one faulty disk in this process, from its settings, until SIGTERM."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from failover.drill.faultfs.launch import is_mounted, unmount, why_no_fuse

NO_FUSE = 3
"""Exit code where libfuse is missing."""


class FaultFsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backing` holds the files, they appear at `mount`; `log` gets one JSON line for each fault that struck.

    `cached`: the kernel keeps what it read and wrote, so that after a failed fsync the disk is old and the content is not.
    """

    backing: Path
    mount: Path
    socket: Path
    log: Path | None = None
    cached: bool = False


def run(settings_file: Path) -> int:
    """The settings from a TOML file: exit code 0 after a clean end, else 1 or NO_FUSE, with a sentence on standard error."""
    try:
        settings = msgspec.toml.decode(settings_file.read_bytes(), type=FaultFsSettings, dec_hook=_from_text)
    except (OSError, msgspec.DecodeError) as error:
        print(f"faultfs: {settings_file} cannot be used: {error}", file=sys.stderr)
        return 1
    return serve(settings)


def _from_text(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind} is no setting")


def serve(settings: FaultFsSettings) -> int:
    """See `run`."""
    if not unmount(settings.mount):
        print(f"faultfs: what is mounted on {settings.mount} cannot be taken away", file=sys.stderr)
        return 1
    why = why_no_fuse()
    if why is not None:
        print(f"faultfs {why}", file=sys.stderr)
        return NO_FUSE
    try:
        _mount(settings)
    except RuntimeError as error:
        print(f"faultfs: {settings.mount} could not be mounted: libfuse says {error}", file=sys.stderr)
        return 1
    return 1 if is_mounted(settings.mount) else 0


def _mount(settings: FaultFsSettings) -> None:
    import mfusepy  # noqa: PLC0415  it raises where libfuse is missing, and so do those below

    from failover.drill.faultfs.control import Control, listen  # noqa: PLC0415
    from failover.drill.faultfs.operations import FaultFs  # noqa: PLC0415
    from failover.drill.faultfs.overlay import Overlay  # noqa: PLC0415
    from failover.drill.faultfs.table import FaultTable, Fired  # noqa: PLC0415

    # Each file that has unsynced data keeps a descriptor.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0)  # the kernel has taken the caller's off already
    log = os.open(settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if settings.log is not None else None
    lock = threading.Lock()

    def note(fired: Fired) -> None:
        if log is not None:
            with lock:
                os.write(log, msgspec.json.encode(fired) + b"\n")

    table, overlay = FaultTable(note), Overlay()
    system = FaultFs(str(settings.backing.resolve()), table, overlay)
    listen(settings.socket, Control(table, overlay, system.names))
    others = {"allow_other": True} if os.geteuid() == 0 else {}
    mfusepy.FUSE(
        system,
        str(settings.mount),
        foreground=True,
        fsname="faultfs",
        default_permissions=True,
        direct_io=not settings.cached,
        use_ino=True,
        hard_remove=True,
        **others,
    )
