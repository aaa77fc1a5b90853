"""`python -m compose`: the same as `locum`; its parts skip the command line's imports, since a restart is urgent."""

from __future__ import annotations

import sys
from pathlib import Path

_PART_ARGUMENTS = 3


def main() -> None:
    arguments = sys.argv[1:]
    is_part = len(arguments) == _PART_ARGUMENTS and arguments[0] in (
        "agent",
        "controller",
        "server",
        "proxies",
        "faultfs",
    )
    if is_part and arguments[1] == "--config":
        from compose.child import run_child

        sys.exit(run_child(arguments[0], Path(arguments[2])))
    from compose.cli import main as command_line

    command_line()


main()
