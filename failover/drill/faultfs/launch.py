"""Start and end a faultfs from another process."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

_DEVICE = Path("/dev/fuse")
_UNMOUNT_DEADLINE_S = 10.0


def why_no_fuse() -> str | None:
    """Why no file system can be mounted here, in words; None when it can."""
    try:
        import mfusepy  # noqa: F401, PLC0415  it raises where libfuse is missing
    except (ImportError, OSError) as error:
        return f"needs FUSE: {error} (the package fuse3, and pip install 'locum[drill]')"
    if not _DEVICE.exists():
        return "needs FUSE: there is no /dev/fuse here"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "needs FUSE: there is no fusermount3 here (the package fuse3)"
    if os.geteuid() == 0 and not os.access(_DEVICE, os.R_OK | os.W_OK):
        return "needs FUSE: /dev/fuse may not be opened"
    if ctypes.util.find_library("fuse3") is None:
        return "needs FUSE: there is no libfuse3 here (the package fuse3)"
    return None


def command(backing: Path, mount: Path, socket: Path, *, log: Path | None = None, cached: bool = False) -> list[str]:
    """The process that serves `backing` at `mount` until SIGTERM."""
    return [
        sys.executable,
        "-P",
        "-m",
        "failover.drill.faultfs",
        *("--backing", str(backing), "--mount", str(mount), "--socket", str(socket)),
        *(("--log", str(log)) if log is not None else ()),
        *(("--cached",) if cached else ()),
    ]


def is_mounted(mount: Path) -> bool:
    """A file system is served there, or what a dead one has left."""
    wanted = str(mount.parent.resolve() / mount.name)
    for escape, character in (("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012")):
        wanted = wanted.replace(escape, character)
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split()[4] == wanted for line in lines)


def unmount(mount: Path) -> bool:
    """Take it away, also after its process died, also while files are open: whether it is gone. Blocks."""
    if not is_mounted(mount):
        return True
    as_root = os.geteuid() == 0
    words = ["umount", "--lazy"] if as_root else ["fusermount3", "-u", "-z"]
    subprocess.run([*words, str(mount)], capture_output=True, timeout=_UNMOUNT_DEADLINE_S, check=False)
    return not is_mounted(mount)
