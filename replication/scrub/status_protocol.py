"""What the two nodes say to each other of pg_xact (replication/scrub/transaction_status.py)."""

from __future__ import annotations

import msgspec

from replication.page_size import PAGE_BYTES

XIDS_A_PAGE = PAGE_BYTES * 4


class StatusSpan(msgspec.Struct, frozen=True):
    """A node's digests of its pages with transactions from `oldest` to below `below`; what lies beyond is taken as zero."""

    timeline: int
    oldest: int
    below: int
    digests: tuple[str, ...]

    @property
    def first_page(self) -> int:
        """Of which the first digest is."""
        return self.oldest // XIDS_A_PAGE


class AskStatus(msgspec.Struct, frozen=True):
    """A question for that; with `page`, for one page whole."""

    oldest: int
    below: int
    page: int | None = None


class StatusPage(msgspec.Struct, frozen=True):
    """One page, as hexadecimal digits."""

    hexadecimal: str
