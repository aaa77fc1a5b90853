"""Random faults from the whole catalogue, reproducible by their seed, and what became of each class of them. Pure.

A campaign expects only what is always promised: nothing lost, doubled, altered or stale, every request answered, bookings
within the bound, a healthy cluster afterwards. What was named, and whether another node was promoted, is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from failover.drill.faults.damage import Damage
from failover.drill.runner import Report
from failover.drill.scenario import (
    ANY_VERDICT,
    Clock,
    Disk,
    Expect,
    Files,
    Links,
    LinkState,
    Load,
    Node,
    Operator,
    PowerLoss,
    Scenario,
    Signal,
    Step,
    WalTail,
)

_GAP_MS_MAX = 25_000
_HEALTHY_WITHIN_S = 120.0
_DISK_FILES = ("relation", "wal", "any")
"""Those that are written all the time, or at every checkpoint."""
_NODES: tuple[Node, Node] = ("primary", "standby")
_LINK_STATES: tuple[LinkState, ...] = ("frozen", "frozen_to", "frozen_from", "slow", "cut")
_Make = Callable[[Random], tuple[Step, ...]]


def _node(random: Random) -> Node:
    return random.choice(_NODES)


def _disk(kind: str, *ops: str, **more: int) -> _Make:
    """A fault of this kind at one of these operations, on one of the nodes."""

    def make(random: Random) -> tuple[Step, ...]:
        fault = {"kind": kind, "op": random.choice(ops), "files": random.choice(_DISK_FILES), **more}
        if random.random() < 0.3 and "count" not in fault:
            fault |= {"probability": 0.2, "seed": random.randrange(1 << 16)}
        return (Disk(node=_node(random), fault=fault),)

    return make


def _on_table(kind: str) -> _Make:
    """What is read of the appointments' table is struck, on the primary."""
    return lambda random: (
        Disk(
            node="primary",
            table="appointment",
            fault={"kind": kind, "op": "read", "seed": random.randrange(1 << 16)},
        ),
    )


def _signal(signal: str, *kinds: str) -> _Make:
    def make(random: Random) -> tuple[Step, ...]:
        kind = random.choice(kinds)
        return (Signal(to=(kind if kind in ("controller", "server") else f"{kind} {_node(random)}",), signal=signal),)

    return make


def _one_process(signal: str) -> _Make:
    """One of PostgreSQL's, on the node that has it."""

    def make(random: Random) -> tuple[Step, ...]:
        kind = random.choice(("backend", "checkpointer", "walsender", "walreceiver"))
        node = {"walreceiver": "standby", "checkpointer": _node(random)}.get(kind, "primary")
        return (Signal(to=(f"{kind} {node}",), signal=signal),)

    return make


def _host(signal: str) -> _Make:
    def make(random: Random) -> tuple[Step, ...]:
        node = _node(random)
        return (Signal(to=(f"agent {node}", f"postgres {node}"), signal=signal),)

    return make


def _links(random: Random) -> tuple[Step, ...]:
    pairs = (
        (("controller",), (f"agent {_node(random)}",)),
        (("agent primary", "node primary", "postgres primary"), ("agent standby", "node standby", "postgres standby")),
        (("server",), ("controller",)),
        (("server",), ("postgres primary",)),
    )
    one, other = random.choice(pairs)
    state = random.choice(_LINK_STATES)
    return (Links(one=one, other=other, state=state),)


def _power(random: Random) -> tuple[Step, ...]:
    return (PowerLoss(nodes=random.choice((("primary",), ("standby",), ("primary", "standby")))),)


def _two(random: Random) -> tuple[Step, ...]:
    """A second failure soon after the first, on the other node or the same."""
    first = Signal(to=(f"postgres {_node(random)}",))
    second = Signal(to=(f"postgres {_node(random)}",), at_s=random.uniform(0.2, 3.0))
    return first, second


def _files(*damages: Damage, relation: str = "appointment", nodes: tuple[Node, ...] = ("primary",)) -> _Make:
    """Damage to the files of a node as they lie."""
    return lambda random: (Files(node=random.choice(nodes), damage=random.choice(damages), relation=relation),)


def _clock(random: Random) -> tuple[Step, ...]:
    return (Clock(node=_node(random), offset_ms=random.choice((-1, 1)) * random.randrange(1_000, 100_000_000)),)


def _wal_tail(random: Random) -> tuple[Step, ...]:
    return (WalTail(node="primary", lost_kb=random.randrange(32, 512)),)


CLASSES: dict[str, _Make] = {
    "kill": _signal("KILL", "postgres", "agent", "controller"),
    "kill of one process": _one_process("KILL"),
    "stop of one process": _one_process("STOP"),
    "stop": _signal("STOP", "agent", "controller", "postgres"),
    "host killed": _host("KILL"),
    "host hangs": _host("STOP"),
    "two failures": _two,
    "switchover": lambda _random: (Operator(action="switchover"),),
    "path cut": _links,
    "disk error on read": _on_table("eio"),
    "disk error on write": _disk("eio", "write"),
    "disk error on fsync": _disk("eio", "fsync"),
    "disk stalls": _disk("stall", "write", "fsync"),
    "disk is slow": _disk("slow", "write", "fsync", latency_ms=20),
    "disk full": _disk("enospc", "write"),
    "disk read-only": _disk("erofs", "write"),
    "disk vanishes": lambda random: (Signal(to=(f"disk {_node(random)}",)),),
    "bit flip on read": _on_table("bit_flip"),
    "bit flip on write": _disk("bit_flip", "write"),
    "torn write": _disk("torn_write", "write"),
    "lost write": _disk("lost_write", "write"),
    "fsync lies": _disk("fsync_lies", "fsync"),
    "power lost": _power,
    "misdirected write": _disk("misdirected_write", "write", to_block=1, count=1),
    "WAL tail lost": _wal_tail,
    "clock jump": _clock,
    "damaged page": _files(Damage.BIT_FLIP, Damage.NOISE, nodes=_NODES),
    "zeroed page": _files(Damage.ZEROED),
    "stale page": _files(Damage.STALE),
    "second write lost": _files(Damage.SECOND_WRITE_LOST),
    "misdirected page": _files(Damage.SWAPPED, Damage.OTHER_RELATION),
    "altered row": _files(Damage.TUPLE_ALTERED),
    "altered index entry": _files(Damage.ENTRY_ALTERED),
    "damaged long value": _files(Damage.TOAST, relation="idempotency"),
    "stale visibility map": _files(Damage.VISIBILITY_MAP),
    "damaged free space map": _files(Damage.FREE_SPACE_MAP),
    "file cut or gone": _files(Damage.TRUNCATED, Damage.MISSING, nodes=_NODES),
    "damaged pg_xact": _files(Damage.TRANSACTION_STATUS, nodes=_NODES),
    "damaged pg_control": _files(Damage.CONTROL_FILE, Damage.CONTROL_FILE_STALE, nodes=_NODES),
    "damaged WAL": _files(Damage.WAL_SEGMENT),
    "bit in memory": _files(Damage.MEMORY_BIT),
}
"""Each makes the steps of one fault from a generator."""


PROCESS_CLASSES = frozenset(
    {
        "kill",
        "kill of one process",
        "stop of one process",
        "stop",
        "host killed",
        "host hangs",
        "two failures",
        "switchover",
        "path cut",
        "clock jump",
        "power lost",
    }
)
STORAGE_CLASSES = frozenset(CLASSES) - PROCESS_CLASSES
"""Faults of a disk, and of what lies on it: each that fired on live data is to be found."""
_NAMED_WITHIN_S = 60.0
_CHECKPOINT_EVERY_S = 20.0
_FULL, _FULL_FOR_S, _REFUSED_MAX = "disk full", 8.0, 10_000
"""A PostgreSQL that lives on with a full disk is not replaced for it: an alarm says so, and bookings are refused cleanly until there is
room (DESIGN section 4). So the disk is not kept full until somebody is named."""


def campaign(seed: int, count: int) -> list[Scenario]:
    """`count` faults: every class once in an order of the seed, then again."""
    random = Random(seed)  # noqa: S311  to be repeatable, not secret
    scenarios: list[Scenario] = []
    while len(scenarios) < count:
        order = list(CLASSES)
        random.shuffle(order)
        scenarios += [_scenario(len(scenarios) + turn, name, random) for turn, name in enumerate(order)]
    return scenarios[:count]


def _scenario(number: int, name: str, random: Random) -> Scenario:
    named_within_s = _FULL_FOR_S if name == _FULL else _NAMED_WITHIN_S
    return Scenario(
        name=f"{number:03d} {name}",
        why="Drawn from the catalogue: what nobody thought of comes first.",
        steps=CLASSES[name](random),
        load=Load(rate=50.0, before_s=3.0, lasts_s=4.0),
        expect=Expect(
            verdicts=(ANY_VERDICT,),
            new_primary="either",
            failed_max=_REFUSED_MAX if name == _FULL else 0,
            gap_ms_max=_GAP_MS_MAX,
            healthy_within_s=_HEALTHY_WITHIN_S,
            named_within_s=named_within_s if name in STORAGE_CLASSES else 0.0,
            checkpoint_every_s=_CHECKPOINT_EVERY_S,
        ),
    )


def class_of(report: Report) -> str:
    """Which class a report's fault was drawn from."""
    return report.scenario.name.partition(" ")[2]
