"""Alarms: what a person should know now. Derived each round; told once when one begins and once when it is over.

Each goes to the log, to the metrics, to `GET /v1/cluster` and to `alarm_command`: an argument vector that gets
`{"state": "raised" | "cleared", "name", "since", "sentence"}` as JSON on its standard input. After a restart of the
controller those that still stand are told again: rather twice than never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import structlog

from failover.core.model import Alarm, Observation, State
from replication.model import FaultKind, Stage
from replication.topology import Phase

_log = structlog.get_logger()

HOOK_DEADLINE_S = 10.0
_HOOKS_WAITING_MAX = 100
_SILENT_PATIENCE_MS = 3_000
_DEGRADED_PATIENCE_MS = 10_000
_CUT_OFF_PATIENCE_MS = 1_500
"""Longer than it takes to give a lost standby up: until then writes wait for that."""
_WRITES_FAILING_MS = 1_000
_COMMIT_WAITS_MS = 500
_FRESH_SERVER_MS = 3_000


class Standing(NamedTuple):
    """A cause that holds now. It becomes an alarm once it has held for `patience_ms`."""

    name: str
    sentence: str
    patience_ms: int = 0


class Change(msgspec.Struct, frozen=True):
    """What the hook command is told."""

    state: str
    name: str
    since: str
    sentence: str


def standing(state: State, observation: Observation, phase: Phase) -> list[Standing]:
    """Every cause for an alarm in this round, the core's own first. Pure."""
    found = [Standing(alarm.name, alarm.sentence) for alarm in state.alarms]
    if phase is Phase.DEGRADED and not any(alarm.name == "no_standby" for alarm in state.alarms):
        sentence = f"{state.primary} serves, and no standby may be promoted at the moment; see `locum status`."
        found.append(Standing("degraded", sentence, _DEGRADED_PATIENCE_MS))
    for name in sorted(state.nodes):
        report = observation.nodes.get(name)
        if report is None:
            silence = observation.silence.get(name)
            word = silence.value if silence is not None else "no answer yet"
            found.append(
                Standing(f"agent_silent.{name}", f"The agent of node {name} is silent ({word}).", _SILENT_PATIENCE_MS)
            )
            continue
        found += [
            Standing(f"fault.{name}.{fault.kind.value}", fault.sentence)
            for fault in (*state.nodes[name].faults, *report.faults)
        ]
        if name == state.primary and report.commit_overrides:
            found.append(Standing("commit_overrides", _commit_overrides(report.commit_overrides)))
    return found + _cut_off_servers(state, observation)


def _cut_off_servers(state: State, observation: Observation) -> list[Standing]:
    """Servers whose writes do not return although the primary answers its own agent, and they wait neither for its disk nor for its
    standby: the path between them, most likely, and nothing that a promotion would mend."""
    primary = observation.nodes.get(state.primary or "")
    if primary is None or primary.stage is not Stage.OPEN or primary.sql is None or not primary.sql.ok:
        return []
    waits_for_standby = (primary.commit_waiting_ms or 0) >= _COMMIT_WAITS_MS
    if waits_for_standby or any(fault.kind is FaultKind.STORAGE_STALLED for fault in primary.faults):
        return []
    return [
        Standing(
            f"server_cut_off.{seen.report.server}",
            f"No write of server {seen.report.server} to {state.primary}, the primary, returns, which answers its own agent: "
            f"nobody can book through that server; next: look at the network between it and {state.primary}",
            _CUT_OFF_PATIENCE_MS,
        )
        for seen in observation.servers
        if seen.age_ms <= _FRESH_SERVER_MS
        and (seen.report.term, seen.report.primary) == (state.term, state.primary)
        and (seen.report.writes_failing_ms or 0) >= _WRITES_FAILING_MS
    ]


def _commit_overrides(entries: tuple[str, ...]) -> str:
    return (
        f"synchronous_commit is set for {', '.join(entries)}: commits of other programs under it may be lost in a "
        "failover; Locum's own are not; next: ALTER ROLE or ALTER DATABASE … RESET synchronous_commit"
    )


class AlarmBook:
    """Which alarms stand, since when. Time is given to it."""

    def __init__(self) -> None:
        self._first_ms: dict[str, tuple[int, str]] = {}
        self._raised: dict[str, Alarm] = {}

    @property
    def raised(self) -> tuple[Alarm, ...]:
        """Those that stand, oldest first."""
        return tuple(self._raised.values())

    def update(self, causes: Iterable[Standing], now_ms: int, at: str) -> list[Change]:
        """Note the causes of this round, and say which alarms began and which are over."""
        causes_now = {cause.name: cause for cause in causes}
        self._first_ms = {name: self._first_ms.get(name, (now_ms, at)) for name in causes_now}
        changes = []
        for name, cause in causes_now.items():
            since_ms, since = self._first_ms[name]
            if now_ms - since_ms < cause.patience_ms:
                continue
            if name not in self._raised:
                changes.append(Change("raised", name, since, cause.sentence))
            self._raised[name] = Alarm(name, since, cause.sentence)
        for name in [name for name in self._raised if name not in causes_now]:
            over = self._raised.pop(name)
            changes.append(Change("cleared", name, over.since, over.sentence))
        return changes


class AlarmHook:
    """Runs the hook command for one change after the other; a change too many while it hangs is dropped and logged."""

    def __init__(self, command: list[str], *, deadline_s: float = HOOK_DEADLINE_S) -> None:
        self._command = command
        self._deadline_s = deadline_s
        self._waiting: asyncio.Queue[Change] = asyncio.Queue(_HOOKS_WAITING_MAX)

    def tell(self, changes: Iterable[Change]) -> None:
        """Log each change, and have the command told."""
        for change in changes:
            _log.warning(f"alarm.{change.state}", name=change.name, since=change.since, sentence=change.sentence)
            if not self._command:
                continue
            if self._waiting.full():
                _log.error("alarm.hook_overrun", name=change.name)
            else:
                self._waiting.put_nowait(change)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._run_once(await self._waiting.get())

    async def _run_once(self, change: Change) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            _log.error("alarm.hook_failed", command=self._command[0], sentence=str(error))
            return
        try:
            async with asyncio.timeout(self._deadline_s):
                await process.communicate(msgspec.json.encode(change))
        except TimeoutError:
            _log.error("alarm.hook_late", command=self._command[0], name=change.name)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            _log.error("alarm.hook_failed", command=self._command[0], exit_code=process.returncode)
