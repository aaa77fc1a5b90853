"""`python -m failover.drill.faultfs --backing DIR --mount DIR --socket FILE`: serve one faulty disk until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from failover.drill.faultfs.serve import FaultFsSettings, serve


def main() -> int:
    """0 after a clean end, 3 where FUSE is missing, 1 when the mount fails."""
    parser = argparse.ArgumentParser(prog="python -m failover.drill.faultfs", description=__doc__)
    parser.add_argument("--backing", type=Path, required=True, help="the directory that holds the files")
    parser.add_argument("--mount", type=Path, required=True, help="where they appear")
    parser.add_argument("--socket", type=Path, required=True, help="where it is steered")
    parser.add_argument("--log", type=Path, help="one JSON line for each fault that struck")
    parser.add_argument("--cached", action="store_true", help="let the kernel keep what it read and wrote")
    logging.basicConfig(level=logging.ERROR)
    return serve(FaultFsSettings(**vars(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(main())
