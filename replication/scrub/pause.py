"""A pause of everything that reads pages in search of damage: asked for, and over by itself.

The ledger goes on following WAL, and what PostgreSQL says in its log is heard: only the reading rests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FOR_S_MAX = 86_400.0


class Pause:
    """`monotonic`: seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until_s = 0.0

    def begin(self, for_s: float) -> None:
        """From now on for so long; 0 ends it. Raises ValueError for a time that makes no sense."""
        if not 0 <= for_s <= FOR_S_MAX:
            raise ValueError(f"a pause lasts 0 to {FOR_S_MAX:g} s")
        self._until_s = self._monotonic() + for_s

    @property
    def is_on(self) -> bool:
        """Nothing is to be read now."""
        return self._monotonic() < self._until_s
