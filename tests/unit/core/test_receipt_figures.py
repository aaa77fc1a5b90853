"""What servers found of receipts and of the tables' structure, added up and said."""

from __future__ import annotations

import pytest

from failover.core.receipts import is_whole, sentence_of
from replication.model import ReceiptCheck


@pytest.mark.parametrize(
    ("structure", "whole", "said"),
    [
        (None, True, "lost."),
        ((), True, "nothing found."),
        (("appointment_patient: a row is missing",), False, "appointment_patient: a row is missing."),
    ],
)
def test_damage_of_an_index_keeps_an_incident_open_and_is_named(
    structure: tuple[str, ...] | None, whole: bool, said: str
) -> None:
    check = ReceiptCheck(1, 10, 10, structure=structure)
    assert is_whole(check) is whole
    assert sentence_of(check).endswith(said)
    assert not is_whole(ReceiptCheck(1, 10, 9, lost=1, structure=structure))


def test_the_seals_that_fit_are_said_where_there_are_any() -> None:
    assert sentence_of(ReceiptCheck(1, 10, 10, sealed=9)).endswith("0 lost; 9 seals fit.")
    assert sentence_of(ReceiptCheck(1, 10, 10)).endswith("0 lost.")
