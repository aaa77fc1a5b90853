"""Which cluster a command means: --controller and --token-file, else what `locum up` wrote into --data."""

from __future__ import annotations

from pathlib import Path

import msgspec

from compose import ready
from compose.errors import NoCluster
from compose.layout import DEFAULT_DATA, Layout
from compose.options import ConfigFile
from compose.ready import Ready
from replication.wire.secrets import read_secret


class Target(msgspec.Struct, frozen=True):
    """One cluster. `agents` is empty when only a controller's URL was given."""

    controller: str
    token_file: Path | None
    agents: dict[str, str] = {}

    def token(self) -> str:
        """The bearer token. Raises NoCluster when no file is known, SecretError when it cannot be used."""
        if self.token_file is None:
            raise NoCluster("this command needs the token; give its file with --token-file")
        return read_secret(self.token_file)


def find_target(config: ConfigFile, *, controller: str | None, token_file: Path | None, data: Path | None) -> Target:
    """Flags, then the settings file, then `DIR/locum.json`. Raises NoCluster."""
    url = controller or config.controller
    token = token_file or config.token_file
    layout = Layout((data or config.data or DEFAULT_DATA).absolute())
    found = _read(layout)
    if url is not None:
        same = found is not None and found.controller == url.rstrip("/")
        agents = _agents(found) if same else {}
        return Target(url.rstrip("/"), token or (layout.token_file if same else None), agents)
    if found is None:
        raise NoCluster(
            f"{layout.locum_json} does not exist: no `locum up` ran on that directory; give --data DIR, or "
            "--controller URL and --token-file F"
        )
    return Target(found.controller, token or Path(found.token_file), _agents(found))


def _agents(found: Ready | None) -> dict[str, str]:
    return {} if found is None else {name: node.agent for name, node in found.nodes.items()}


def _read(layout: Layout) -> Ready | None:
    try:
        return ready.read(layout.locum_json)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise NoCluster(f"{layout.locum_json} cannot be read: {error}; `locum up` writes it anew") from error
