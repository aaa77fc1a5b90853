"""The next pages of a file are read while those before them are judged: disk and processor work side by side.

Each read ahead has a thread and a descriptor of its own: one that never comes back from its disk holds up nobody but who waits for it.
Where the system gives neither, nothing is read ahead: that says nothing of the disk.
"""

from __future__ import annotations

import mmap
import os
import threading

from replication.relation_files import read_into


class ReadAhead:
    """For one reader. What `take` gives is good until it is called again."""

    def __init__(self, pages: int, page_bytes: int) -> None:
        self._room_bytes = pages * page_bytes
        self._free: list[mmap.mmap] = []
        self._given: mmap.mmap | None = None
        self._coming: _Read | None = None

    def take(self, descriptor: int, page: int, count: int, until_page: int) -> memoryview:
        """So many pages of the file from this one on, no more than there is room for, fewer at its end; and begin with those behind
        them, up to `until_page`. Waits for the disk. Raises OSError."""
        if self._given is not None:
            self._free.append(self._given)
            self._given = None
        coming, self._coming = self._coming, None
        is_ready = coming is not None and (coming.page, coming.count) == (page, count)
        if page + count < until_page:
            self._coming = self._begin(descriptor, page + count, count)
        if coming is not None and is_ready:
            view, self._given = coming.result(), coming.room
            return view
        self._given = self._room()
        return read_into(self._given, descriptor, page, count)

    def forget(self) -> None:
        """Another file comes next. Does not wait: a read that is under way keeps its memory to itself."""
        self._coming = None

    def _room(self) -> mmap.mmap:
        return self._free.pop() if self._free else mmap.mmap(-1, self._room_bytes)

    def _begin(self, descriptor: int, page: int, count: int) -> _Read | None:
        try:
            own = os.dup(descriptor)
        except OSError:
            return None
        try:
            return _Read(self._room(), own, page, count)
        except RuntimeError:  # no thread to be had
            os.close(own)
            return None


class _Read:
    def __init__(self, room: mmap.mmap, descriptor: int, page: int, count: int) -> None:
        self.room = room
        self.page = page
        self.count = count
        self._descriptor = descriptor
        self._view: memoryview | None = None
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._view = read_into(self.room, self._descriptor, self.page, self.count)
        except OSError as error:
            self._error = error
        finally:
            os.close(self._descriptor)

    def result(self) -> memoryview:
        self._thread.join()
        if self._view is None:
            raise self._error or OSError("the read ended without a word")
        return self._view
