"""How large a page is and how many a file holds: apart from replication/page.py, so that whoever starts in a hurry (the controller,
which takes over) does not wait for NumPy."""

from __future__ import annotations

PAGE_BYTES = 8192
PAGES_A_SEGMENT = 131_072
"""RELSEG_SIZE: a relation's file is cut into files of 1 GB."""
