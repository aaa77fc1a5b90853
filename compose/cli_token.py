"""`locum token`: a bearer token of `locum up --auth`, for development."""

from __future__ import annotations

from typing import Annotated

import typer

from compose import flags
from compose.development_auth import make_token
from compose.layout import DEFAULT_DATA, Layout
from compose.options import read_config


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="token")(token)


def token(
    patient: Annotated[
        str | None, typer.Option(metavar="ID", help="Speak for this patient only; default: staff.")
    ] = None,
    scopes: Annotated[
        str | None, typer.Option(metavar="TEXT", help="SMART scopes; default: all that makes sense.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=24.0, help="How long it is valid.")] = 12.0,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Print a bearer token for the API of `locum up --auth` (development only)."""
    layout = Layout((data or read_config(config).data or DEFAULT_DATA).absolute())
    print(make_token(layout, patient=patient, scopes=scopes, for_s=round(hours * 3_600)))
