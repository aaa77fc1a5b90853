"""The checker: silent about every history that a correct server could have produced, and not about forged ones."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.drill.checker import Finding, Kind, Rows, check
from failover.drill.history import Do, Facts, Operation, Outcome

SLOT_S = 1_800
Step = tuple[Do, int, Outcome, bool]
"""What, on which of the appointments so far, how it seems to end, and whether a write of unknown outcome has happened."""


class Clinic:
    """A correct server, and clients whose connections are not: what they were told, and what lies in the database."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.history: list[Operation] = []
        self.now_s = 0.0
        self._next_slot = 0

    def run(self, steps: list[Step]) -> None:
        for do, which, outcome, happened in steps:
            known = sorted(self.rows)
            if do in (Do.BOOK, Do.HOLD) or not known:
                self._book(outcome, happened=happened)
            elif do is Do.READ:
                self._read(known[which % len(known)], outcome)
            else:
                self._change(do, known[which % len(known)], outcome, happened=happened)

    def _book(self, outcome: Outcome, *, happened: bool) -> None:
        number = self._next_slot
        self._next_slot += 1
        asked = Facts(
            status="booked",
            start_s=number * SLOT_S,
            end_s=(number + 1) * SLOT_S,
            practitioner=f"p{number % 3}",
            patient=f"of-p{number % 3}",
            location=f"r{number % 3}",
        )
        name = f"id{number:04d}"
        if outcome is Outcome.OK or (outcome is Outcome.UNKNOWN and happened):
            self.rows[name] = asked
        self._note(Do.BOOK, outcome, key=f"k{number}", appointment=name, asked=asked)

    def _change(self, do: Do, name: str, outcome: Outcome, *, happened: bool) -> None:
        row = self.rows[name]
        status = "cancelled" if do is Do.CANCEL else "booked"
        asked = msgspec.structs.replace(row, status=status, version=row.version + 1)
        if outcome is Outcome.OK or (outcome is Outcome.UNKNOWN and happened):
            self.rows[name] = asked
        self._note(do, outcome, key=f"c{len(self.history)}", appointment=name, asked=asked)

    def _read(self, name: str, outcome: Outcome) -> None:
        self._note(Do.READ, outcome, appointment=name)

    def _note(
        self, do: Do, outcome: Outcome, *, appointment: str, key: str | None = None, asked: Facts | None = None
    ) -> None:
        self.now_s += 1
        is_told = outcome is Outcome.OK
        self.history.append(
            Operation(
                number=len(self.history),
                client=0,
                do=do,
                began_s=self.now_s,
                ended_s=self.now_s + 0.5 if outcome is not Outcome.UNKNOWN else None,
                outcome=outcome,
                key=key,
                appointment=appointment if is_told or do not in (Do.BOOK, Do.HOLD) else None,
                asked=asked,
                found=self.rows.get(appointment) if is_told else None,
            )
        )


STEPS = st.lists(
    st.tuples(
        st.sampled_from([Do.BOOK, Do.BOOK, Do.MOVE, Do.CANCEL, Do.READ]),
        st.integers(0, 50),
        st.sampled_from(Outcome),
        st.booleans(),
    ),
    max_size=40,
)
BOOKINGS: list[Step] = [(Do.BOOK, 0, Outcome.OK, True)] * 4


def clinic(steps: list[Step]) -> Clinic:
    made = Clinic()
    made.run([*BOOKINGS, *steps])
    return made


def kinds(found: list[Finding]) -> set[Kind]:
    return {finding.kind for finding in found}


@given(STEPS)
def test_a_history_of_a_correct_server_is_never_convicted(steps: list[Step]) -> None:
    made = clinic(steps)
    assert check(made.history, made.rows) == []


@given(STEPS, st.data())
def test_a_row_that_is_gone_is_lost(steps: list[Step], data: st.DataObject) -> None:
    made = clinic(steps)
    promised = sorted({o.appointment for o in made.history if o.is_acknowledged_write and o.appointment})
    victim = data.draw(st.sampled_from(promised))
    del made.rows[victim]
    assert (Kind.LOST, victim) in {(finding.kind, finding.appointment) for finding in check(made.history, made.rows)}


@given(STEPS)
def test_a_cancellation_that_is_forgotten_is_lost(steps: list[Step]) -> None:
    made = clinic([*steps, (Do.CANCEL, 0, Outcome.OK, True)])
    row = made.rows["id0000"]
    made.rows["id0000"] = msgspec.structs.replace(row, status="booked", version=row.version - 1)
    assert Kind.LOST in kinds(check(made.history, made.rows))


@pytest.mark.parametrize(
    "change", [{"start_s": 1}, {"practitioner": "p9"}, {"patient": "eve"}, {"status": "noshow"}, {"location": "r9"}]
)
def test_content_that_was_altered_is_wrong(change: dict[str, object]) -> None:
    made = clinic([])
    made.rows["id0001"] = msgspec.structs.replace(made.rows["id0001"], **change)
    assert Kind.WRONG_CONTENT in kinds(check(made.history, made.rows))


def test_a_version_that_nobody_asked_for_is_wrong_unless_an_unknown_write_did() -> None:
    made = clinic([])
    row = made.rows["id0001"]
    made.rows["id0001"] = msgspec.structs.replace(row, status="cancelled", version=2)
    assert kinds(check(made.history, made.rows)) == {Kind.WRONG_CONTENT}
    made = clinic([(Do.CANCEL, 1, Outcome.UNKNOWN, True)])
    assert made.rows["id0001"].status == "cancelled"
    assert check(made.history, made.rows) == []


@given(STEPS)
def test_a_booking_that_a_replay_made_twice_is_found(steps: list[Step]) -> None:
    made = clinic([*steps, (Do.BOOK, 0, Outcome.OK, True)])
    last = max(made.rows)
    made.rows["replayed"] = made.rows[last]
    found = kinds(check(made.history, made.rows))
    assert {Kind.DUPLICATED, Kind.OVERLAPPING} <= found or made.rows[last].status not in ("booked", "pending")
    assert Kind.DUPLICATED in found


def test_one_unknown_request_explains_one_row_and_not_two() -> None:
    made = clinic([(Do.BOOK, 0, Outcome.UNKNOWN, True)])
    assert check(made.history, made.rows) == []
    made.rows["second"] = msgspec.structs.replace(made.rows[max(made.rows)], status="cancelled")
    assert kinds(check(made.history, made.rows)) == {Kind.DUPLICATED}


def test_a_row_that_nobody_asked_for_is_found() -> None:
    made = clinic([])
    made.rows["x"] = msgspec.structs.replace(made.rows["id0000"], start_s=900 * SLOT_S, end_s=901 * SLOT_S)
    assert kinds(check(made.history, made.rows)) == {Kind.UNASKED}


@pytest.mark.parametrize("what", ["practitioner", "location", "patient"])
def test_two_places_at_once_are_found_for_each_kind_of_resource(what: str) -> None:
    made = clinic([])
    one, other = made.rows["id0000"], made.rows["id0001"]
    moved = {"start_s": one.start_s + 60, "end_s": one.end_s + 60, what: getattr(one, what)}
    changed = msgspec.structs.replace(other, **moved)
    made.rows["id0001"] = changed
    made.history[1] = msgspec.structs.replace(made.history[1], asked=changed, found=changed)
    assert check(made.history, made.rows) == [
        Finding(Kind.OVERLAPPING, "id0001", f"{what} {getattr(one, what)} is in id0000 at the same time")
    ]


def test_a_long_appointment_hides_no_overlap_behind_a_short_one() -> None:
    base = Facts(status="booked", start_s=0, end_s=10_000, practitioner="p", patient=None)
    rows = {
        "long": base,
        "short": msgspec.structs.replace(base, start_s=10, end_s=20),
        "late": msgspec.structs.replace(base, start_s=5_000, end_s=5_100),
    }
    assert [f.appointment for f in check([], rows) if f.kind is Kind.OVERLAPPING] == ["late", "short"]


def test_a_cancelled_appointment_takes_no_place() -> None:
    made = clinic([(Do.CANCEL, 0, Outcome.OK, True)])
    assert check(made.history, made.rows) == []


def read_of(name: str, began_s: float, found: Facts | None, stale_s: int | None = None) -> Operation:
    return Operation(
        number=999,
        client=1,
        do=Do.READ,
        began_s=began_s,
        ended_s=began_s + 0.1,
        outcome=Outcome.OK,
        appointment=name,
        found=found,
        stale_s=stale_s,
    )


def test_a_read_that_goes_back_in_time_is_found_unless_it_says_so() -> None:
    made = clinic([(Do.CANCEL, 0, Outcome.OK, True)])
    old = made.history[0].found
    late = made.now_s + 10
    assert kinds(check([*made.history, read_of("id0000", late, old)], made.rows)) == {Kind.STALE_READ}
    assert kinds(check([*made.history, read_of("id0000", late, None)], made.rows)) == {Kind.STALE_READ}
    assert check([*made.history, read_of("id0000", late, old, stale_s=30)], made.rows) == []
    assert kinds(check([*made.history, read_of("id0000", late, old, stale_s=2)], made.rows)) == {Kind.STALE_READ}
    assert check([*made.history, read_of("id0000", made.now_s, old)], made.rows) == [], "it began before the answer"


def test_one_key_with_two_answers_is_found() -> None:
    made = clinic([])
    again = msgspec.structs.replace(made.history[0], number=100, appointment="id0001", found=made.rows["id0001"])
    assert Kind.DUPLICATED in kinds(check([*made.history, again], made.rows))
    other = msgspec.structs.replace(made.rows["id0000"], version=7)
    again = msgspec.structs.replace(made.history[0], number=100, found=other)
    assert Kind.OTHER_ANSWER in kinds(check([*made.history, again], made.rows))


def test_a_hold_may_expire() -> None:
    made = clinic([])
    held = msgspec.structs.replace(made.rows["id0000"], status="pending")
    made.history[0] = msgspec.structs.replace(made.history[0], do=Do.HOLD, asked=held, found=held)
    del made.rows["id0000"]
    assert check(made.history, made.rows) == []
