"""A bit that flips in memory: a page in shared buffers is not what was read from disk, and no checksum says so.

The segment is an anonymous shared mapping of the postmaster (src/backend/port/sysv_shmem.c), written through
/proc/PID/mem (proc(5)), which the kernel allows to those who may trace the process (ptrace(2)).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from random import Random

from failover.drill.errors import NotInjected, Skipped
from failover.drill.faults import damage
from failover.drill.faults.live_files import LiveFiles
from replication.page_size import PAGE_BYTES

_CHUNK_BYTES = 8 << 20
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-s .* (?:/dev/zero|/SYSV|/anon_hugepage)")
_STILL = "slot"
"""A table that nobody changes under load: where one of its pages lies tells where all buffers lie."""
_BUFFER = """
SELECT bufferid FROM pg_buffercache WHERE relfilenode = pg_relation_filenode($1::regclass) AND relforknumber = 0
AND relblocknumber = $2::int
"""
_READ = "SELECT encode(get_raw_page($1, $2::int), 'hex')"


async def flip_bit(files: LiveFiles, postmaster: int, relation: str, random: Random) -> str:
    """A letter of a row of `relation` is another in shared buffers only. Raises NotInjected, Skipped, ClusterAway."""
    await files.can_evict()  # the extension that lists the buffers
    await files.look(relation)
    await files.look(_STILL)
    still = bytes.fromhex(await files.value(_READ, _STILL, 0))
    found = await asyncio.to_thread(_find, postmaster, still)
    if found is None:
        raise NotInjected(f"block 0 of {_STILL} was not found in shared memory")
    first = found - (int(await files.value(_BUFFER, _STILL, 0)) - 1) * PAGE_BYTES
    blocks = int(await files.value(f"SELECT pg_relation_size($1) / {PAGE_BYTES}", relation))
    for block in random.sample(range(blocks), min(blocks, 8)):
        address = first + (int(await files.value(_BUFFER, relation, block)) - 1) * PAGE_BYTES
        page = await asyncio.to_thread(_read, postmaster, address)
        if damage.items_of(page):
            altered = damage.tuple_altered(page, block, random)
            at = next(at for at in range(24, PAGE_BYTES) if altered[at] != page[at])
            await asyncio.to_thread(_write, postmaster, address + at, altered[at : at + 1])
            return f"memory_bit: {files.node}: byte {at} of block {block} of {relation}, in shared buffers only"
    raise NotInjected(f"no page of {relation} with rows was found in shared buffers")


def _find(postmaster: int, page: bytes) -> int | None:
    """Where the page lies in the postmaster's shared memory. pd_checksum is not kept up there, so it is not looked at."""
    for start, data in _memory(postmaster):
        at = data.find(page[24:])
        if at >= 24:
            return start + at - 24
    return None


def _read(postmaster: int, address: int) -> bytes:
    try:
        with open(f"/proc/{postmaster}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(PAGE_BYTES)
    except OSError as error:
        raise Skipped(f"the memory of PostgreSQL cannot be read here: {error.strerror}") from error


def _memory(postmaster: int) -> Iterator[tuple[int, bytes]]:
    """Its shared mappings in pieces that overlap by a page. Raises Skipped."""
    try:
        with open(f"/proc/{postmaster}/maps", encoding="ascii", errors="replace") as maps:
            found = [_MAPPING.match(line) for line in maps]
        with open(f"/proc/{postmaster}/mem", "rb", buffering=0) as memory:
            for mapping in filter(None, found):
                start, end = int(mapping[1], 16), int(mapping[2], 16)
                for at in range(start, end, _CHUNK_BYTES):
                    memory.seek(at)
                    yield at, memory.read(min(_CHUNK_BYTES + PAGE_BYTES, end - at))
    except OSError as error:
        raise Skipped(f"the memory of PostgreSQL cannot be read here: {error.strerror}") from error


def _write(postmaster: int, address: int, data: bytes) -> None:
    try:
        descriptor = os.open(f"/proc/{postmaster}/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, data, address)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Skipped(f"the memory of PostgreSQL cannot be written here: {error.strerror}") from error
