"""The flags that every command of `locum` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Controller = Annotated[
    str | None, typer.Option("--controller", metavar="URL", help="Of the controller; default: from --data.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="F", help="Holds the bearer token; default: from --data."),
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Data directory of `locum up`; default: ./locum-data.")
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with the same words as the flags.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the records.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when the controller has accepted it.")]
Part = Annotated[Path, typer.Option("--config", metavar="FILE", help="Settings file of this process.")]
