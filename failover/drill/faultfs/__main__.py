"""`python -m failover.drill.faultfs`: serve one directory until SIGTERM. Prints `mounted` once it is there."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import threading
from pathlib import Path

import msgspec


def main() -> int:
    """0 after a clean end, 3 where FUSE is missing, 1 when the mount fails."""
    parser = argparse.ArgumentParser(prog="python -m failover.drill.faultfs", description=__doc__)
    parser.add_argument("--backing", type=Path, required=True, help="the directory that holds the files")
    parser.add_argument("--mount", type=Path, required=True, help="where they appear")
    parser.add_argument("--socket", type=Path, required=True, help="where it is steered")
    parser.add_argument("--log", type=Path, help="one JSON line for each fault that struck")
    parser.add_argument(
        "--cached", action="store_true", help="let the kernel keep what it read: disk old, content cached"
    )
    said = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    try:
        return _serve(said)
    except ImportError as error:
        print(f"FUSE is missing: {error}", file=sys.stderr)
        return 3
    except RuntimeError as error:
        print(f"{said.mount} could not be mounted: libfuse says {error}", file=sys.stderr)
        return 1


def _serve(said: argparse.Namespace) -> int:
    import mfusepy  # noqa: PLC0415  it raises where libfuse is missing

    from failover.drill.faultfs.control import Control, serve  # noqa: PLC0415
    from failover.drill.faultfs.operations import FaultFs  # noqa: PLC0415
    from failover.drill.faultfs.overlay import Overlay  # noqa: PLC0415
    from failover.drill.faultfs.table import FaultTable, Fired  # noqa: PLC0415

    _many_files()
    os.umask(0)  # the kernel has taken the caller's off already
    log = said.log.open("ab", buffering=0) if said.log is not None else None
    lock = threading.Lock()

    def note(fired: Fired) -> None:
        if log is not None:
            with lock:
                log.write(msgspec.json.encode(fired) + b"\n")

    table, overlay = FaultTable(note), Overlay()
    system = FaultFs(str(said.backing.resolve()), table, overlay)
    serve(said.socket, Control(table, overlay, system.names))
    options = {"allow_other": True} if os.geteuid() == 0 else {}
    mfusepy.FUSE(
        system,
        str(said.mount),
        foreground=True,
        fsname="faultfs",
        default_permissions=True,
        direct_io=not said.cached,
        use_ino=True,
        hard_remove=True,
        **options,
    )
    return 0


def _many_files() -> None:
    """Each file that has unsynced data keeps a descriptor."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
