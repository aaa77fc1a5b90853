"""Scenarios: what is made faulty, when, under which load, and what must come of it. Pure but for reading the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

import msgspec

from failover.drill.errors import ScenarioRefused
from failover.drill.faultfs.spec import FaultRefused, parse_fault
from failover.drill.faults.damage import Damage

Node = Literal["primary", "standby"]
LinkState = Literal["open", "frozen", "frozen_to", "frozen_from", "slow", "cut"]
_PARTS = frozenset({"walsender", "walreceiver", "checkpointer", "startup", "backend"})
_TARGETS = _PARTS | {"postgres", "agent", "disk", "controller", "server"}
_NAME = re.compile(r"[a-z_]{1,63}")
_AROUND_S = 17.0
_SIGNALS = frozenset({"KILL", "STOP", "CONT", "TERM"})


class Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="signal"):
    """A signal to processes, all at once.

    `to`: `postgres primary` (all of its processes), one of those by its title, such as `walsender primary` or `backend primary`,
    `agent standby`, `controller`, `server`, `disk primary`.
    """

    to: tuple[str, ...]
    signal: str = "KILL"
    at_s: float = 0.0


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="disk"):
    """A fault of faultfs (its spec.py) on a node's disk. `table`: its file is the fault's path, and what the node has cached of
    it is evicted, so that the disk is read."""

    node: Node
    fault: dict[str, Any]
    table: str | None = None
    at_s: float = 0.0


class Links(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="links"):
    """Paths between processes: every link with one end in `one` and the other in `other`. Ends: `controller`, `server`,
    `agent NODE`, `node NODE` (its walreceiver), `postgres NODE`."""

    one: tuple[str, ...]
    other: tuple[str, ...]
    state: LinkState = "frozen"
    at_s: float = 0.0


class Operator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="operator"):
    """What a person asks of the controller: `switchover`."""

    action: Literal["switchover"]
    at_s: float = 0.0


class PowerLoss(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="power_loss"
):
    """Nodes die, with all that they had not fsynced."""

    nodes: tuple[Node, ...]
    at_s: float = 0.0


class Files(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="files"):
    """Damage to a node's files as they lie (faults/damage.py has the list), chosen by the seed among what is live."""

    node: Node
    damage: Damage
    relation: str = "appointment"
    at_s: float = 0.0


class WalTail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="wal_tail"):
    """Nodes die at once, and `node`'s disk has lost the last `lost_kb` of WAL that it had called written."""

    node: Node
    kill: tuple[Node, ...] = ("primary", "standby")
    lost_kb: int = 128
    at_s: float = 0.0


class Clock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="clock"):
    """The wall clock of a node's agent jumps by so much."""

    node: Node
    offset_ms: int
    at_s: float = 0.0


class Sql(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="sql"):
    """What an administrator does on a node by SQL, such as a nightly job. Nobody waits for its end."""

    node: Node
    statement: str
    at_s: float = 0.0


ANY_VERDICT = "any"
"""Among the expected verdicts: whatever is named, or nothing."""
Step = Signal | Disk | Links | Operator | PowerLoss | Files | WalTail | Clock | Sql


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operations a second, and for how long before the first step, and between the last one and its healing."""

    rate: float = 50.0
    before_s: float = 3.0
    lasts_s: float = 5.0


class Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must come of it; that no promise is broken is always expected.

    `stops`: it must end without a primary, because whatever could serve lacks what was acknowledged.

    `verdicts`: one of these kinds is named; empty: no incident. `new_primary`: a promotion. `failed_max`: requests whose
    outcome the client never learnt. `gap_ms_max`: the recovery time objective. `healthy_within_s`: after the healing.
    """

    verdicts: tuple[str, ...] = ()
    new_primary: bool | Literal["either"] = True
    failed_max: int = 0
    gap_ms_max: int = 10_000
    healthy_within_s: float = 60.0
    stops: bool = False
    named_within_s: float = 0.0
    """How long the load goes on, at most, until the fault is named: what nobody meets is found by those who look."""
    checkpoint_every_s: float = 0.0
    """While it is not named, both nodes make a checkpoint so often, which by themselves they do every five minutes: some damage
    can only be told apart from what is not yet written after one. 0: never."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`why` it matters, in a sentence."""

    name: str
    why: str
    steps: tuple[Step, ...]
    load: Load = Load()
    expect: Expect = Expect()

    @property
    def needs_fuse(self) -> bool:
        """A disk is made faulty."""
        return any(
            isinstance(step, Disk | PowerLoss)
            or (isinstance(step, Signal) and any(target.startswith("disk") for target in step.to))
            for step in self.steps
        )

    @property
    def takes_s(self) -> float:
        """About how long it runs, of which the start and the end of a cluster are most."""
        return _AROUND_S + self.load.before_s + max(step.at_s for step in self.steps) + self.load.lasts_s

    def kinds(self) -> frozenset[str]:
        """Which kinds of steps it makes, as a deployment allows them."""
        return frozenset(str(step.__struct_config__.tag) for step in self.steps)

    @property
    def needs_proxies(self) -> bool:
        """A path is cut."""
        return any(isinstance(step, Links) for step in self.steps)


def parse_scenario(data: bytes, where: str) -> Scenario:
    """A TOML file. Raises ScenarioRefused, naming it."""
    try:
        return checked(msgspec.toml.decode(data, type=Scenario))
    except (msgspec.DecodeError, FaultRefused, ValueError) as error:
        raise ScenarioRefused(f"{where}: {error}") from error


def checked(scenario: Scenario) -> Scenario:
    """The same, when every step makes sense. Raises ValueError, FaultRefused."""
    if not scenario.steps or scenario.load.rate <= 0:
        raise ValueError("a scenario needs a step, and a rate above 0")
    for step in scenario.steps:
        _check(step)
    return scenario


def shipped() -> list[Scenario]:
    """All that come with Locum, by name. Raises ScenarioRefused."""
    return sorted((parse_scenario(file.read_bytes(), file.name) for file in _files()), key=lambda found: found.name)


def _files() -> Iterator[Traversable]:
    folder = files("failover.drill") / "scenarios"
    return (file for file in folder.iterdir() if file.name.endswith(".toml"))


def _check(step: Step) -> None:
    if isinstance(step, Signal) and step.signal not in _SIGNALS:
        raise ValueError(f"no such signal: {step.signal}; there are {', '.join(sorted(_SIGNALS))}")
    if isinstance(step, Signal):
        for target in step.to:
            kind, _, role = target.partition(" ")
            needs_role = kind not in ("controller", "server")
            if kind not in _TARGETS or needs_role != (role in ("primary", "standby")):
                raise ValueError(
                    f"no such target: {target!r}; there are {', '.join(sorted(_TARGETS))}, of primary or standby"
                )
    if isinstance(step, Files) and not _NAME.fullmatch(step.relation):
        raise ValueError(f"no such relation: {step.relation!r}")
    if isinstance(step, WalTail) and step.lost_kb <= 0:
        raise ValueError("lost_kb must be above 0")
    if isinstance(step, Disk):
        parse_fault({**step.fault, "path": None} if step.table is not None else step.fault)
