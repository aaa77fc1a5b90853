"""What a rebuild costs that copies only what differs, against pg_basebackup of the same node in the same run.

`python bench/rebuild.py [--gb 4] [--share 0.01] [--json]`: two nodes, a table of so many gigabytes, one page in a hundred of the stopped
standby overwritten; then a rebuild by differences, then one by pg_basebackup, and the result of the first is checked before the second:
page checksums, `pg_amcheck --heapallindexed`, the digest of every page against its source's, and the rows. `ratio`: time by differences
over time by pg_basebackup. The standby's agent is a process of its own for both, as it is where Locum runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import structlog
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone that is not installed

from replication import actions
from replication.installation import find_installation
from replication.page import as_pages, damaged
from replication.page_size import PAGE_BYTES
from replication.scrub.compare import Range
from replication.scrub.compare_service import in_batches
from replication.scrub.copies import read_copies
from replication.scrub.files import relation_files
from replication.scrub.relation_path import relation_at
from replication.wire.errors import WireError
from tests import nodes
from tests.nodes import HOST, NodeUnderTest, Pair, two_nodes

_ROW_BYTES = 1_000
_AGENT_STARTS_S = 20.0
_FILL = "INSERT INTO appointment SELECT $1::bigint + i, repeat(md5(i::text), 31) FROM generate_series(1, $2::int) i"
_ROWS_AT_ONCE = 200_000
_SUM = "SELECT count(*) || ' ' || sum(hashtext(note)::bigint) FROM appointment"
_SETTINGS = {"max_wal_size": "4GB", "wal_keep_size": "64MB", "shared_buffers": "128MB", "checkpoint_timeout": "30min"}


async def measure(gigabytes: float, share: float, console: Console) -> dict[str, object]:
    """Seconds and bytes of both."""
    nodes.ACTION_DEADLINE_S = 3_600.0
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as place, contextlib.ExitStack() as agents:
        await asyncio.to_thread(Path(place).chmod, 0o755)
        async with two_nodes(Path(place), postgres=_SETTINGS, scrub_enabled=False) as pair:
            await pair.stream()
            pages = await _fill(pair, gigabytes, console)
            primary = await pair.a.connect()
            await pair.b.act(actions.Fence())
            await _in_a_process_of_its_own(pair, Path(place), agents)
            spoiled = await asyncio.to_thread(_spoil, pair.b.settings.data_dir, await _path(pair), share)
            console.print(f"{pages} pages, of which {spoiled} were overwritten on the standby")
            took_s, said = await _rebuild(pair, "n2", only_differences=True)
            console.print(f"by differences: {took_s:.1f} s, {said}")
            bad = await asyncio.to_thread(_bad_pages, pair.b.settings.data_dir)
            await _follow(pair, "n2")
            same = await _same(pair)
            differing, alike = await _digests(pair)
            console.print(f"{alike} pages bear the digest of their source's, {differing} another")
            await pair.b.act(actions.Fence())
            full_s, _ = await _rebuild(pair, "n3", only_differences=False)
            console.print(f"by pg_basebackup: {full_s:.1f} s")
            await primary.close()
    found = re.search(r"(\d+) of (\d+) pages differed, .* (\d+) bytes came", said)
    received = int(found[3]) if found is not None else 0
    return {
        "ratio": round(took_s / full_s, 3),
        "by_differences_s": round(took_s, 2),
        "pg_basebackup_s": round(full_s, 2),
        "received_share": round(received / (pages * PAGE_BYTES), 4),
        "bad_pages": bad,
        "same_rows_and_indexes": same,
        "pages_alike": alike,
        "pages_that_differ": differing,
    }


async def _in_a_process_of_its_own(pair: Pair, place: Path, agents: contextlib.ExitStack) -> None:
    """The standby's agent ends, and another begins as `locum agent`."""
    await pair.b.end_agent()
    config = place / "agent-b.toml"
    settings = msgspec.to_builtins(pair.b.settings, enc_hook=str)
    config.write_bytes(msgspec.toml.encode({name: value for name, value in settings.items() if value is not None}))
    command = [sys.executable, "-m", "compose", "agent", "--config", str(config)]
    agent = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    agents.callback(agent.wait)
    agents.callback(agent.terminate)
    until_s = time.monotonic() + _AGENT_STARTS_S
    while True:
        try:
            await pair.b.report()
            break
        except WireError:
            if time.monotonic() > until_s or agent.poll() is not None:
                raise
            await asyncio.sleep(0.1)


async def _fill(pair: Pair, gigabytes: float, console: Console) -> int:
    rows = int(gigabytes * 1e9 / _ROW_BYTES)
    connection = await pair.a.connect()
    for first in range(0, rows, _ROWS_AT_ONCE):
        await connection.execute(_FILL, first, min(_ROWS_AT_ONCE, rows - first))
    await connection.execute("VACUUM appointment")
    await connection.execute("CHECKPOINT")
    lsn = await connection.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
    pages = int(await connection.fetchval("SELECT pg_total_relation_size('appointment') / 8192"))
    await connection.close()
    console.print(f"filled: {pages * PAGE_BYTES / 1e9:.2f} GB")
    await pair.b.wait(lambda report: (report.replay_lsn or 0) >= lsn, deadline_s=600)
    await _checkpoint(pair)
    return pages


async def _checkpoint(pair: Pair) -> None:
    for node in (pair.a, pair.b):
        connection = await node.connect()
        await connection.execute("CHECKPOINT")
        await connection.close()


async def _path(pair: Pair) -> str:
    connection = await pair.a.connect()
    path = str(await connection.fetchval("SELECT pg_relation_filepath('appointment')"))
    await connection.close()
    return path


def _spoil(data_dir: Path, path: str, share: float) -> int:
    """Random pages of the table's files are random bytes."""
    chosen = random.Random(1)
    count = 0
    for file in sorted((data_dir / path).parent.glob(f"{Path(path).name}*")):
        if re.fullmatch(r"\d+(\.\d+)?", file.name) is None:
            continue
        with file.open("r+b") as opened:
            for page in range(file.stat().st_size // PAGE_BYTES):
                if chosen.random() < share:
                    opened.seek(page * PAGE_BYTES)
                    opened.write(chosen.randbytes(PAGE_BYTES))
                    count += 1
    return count


async def _rebuild(pair: Pair, nonce: str, *, only_differences: bool) -> tuple[float, str]:
    await pair.a.act(actions.EnsureSlot("locum_b"))
    op = actions.Rebuild("a", "locum_b", nonce, fast_checkpoint=True, only_differences=only_differences)
    began = time.monotonic()
    result = await pair.b.act(op)
    return time.monotonic() - began, result.sentence


def _bad_pages(data_dir: Path) -> int:
    bad = 0
    for file in relation_files(data_dir):
        with (data_dir / file.path).open("rb") as opened:
            at = file.first_block
            while data := opened.read(64 * PAGE_BYTES):
                bad += len(damaged(as_pages(data), at))
                at += len(data) // PAGE_BYTES
    return bad


async def _follow(pair: Pair, nonce: str) -> None:
    name = f"b_{nonce}"
    await pair.b.act(actions.StartStandby(name=name, upstream="a", slot="locum_b"))
    await pair.a.wait(lambda report: any(s.name == name and s.state == "streaming" for s in report.walsenders))


async def _same(pair: Pair) -> bool:
    primary, standby = await pair.a.connect(), await pair.b.connect()
    same = await primary.fetchval(_SUM) == await standby.fetchval(_SUM)
    await primary.close()
    await standby.close()
    return same and await _amcheck(pair.b)


async def _amcheck(node: NodeUnderTest) -> bool:
    """`pg_amcheck --heapallindexed` of everything in the database, on the standby as it runs."""
    installation = node.running.node.installation if node.agent is not None else find_installation(None)
    command = installation.command("pg_amcheck", "--heapallindexed", "-h", HOST, "-p", str(node.settings.postgres_port))
    password = (node.settings.secrets_dir / "superuser").read_text().strip()
    checked = await asyncio.to_thread(
        subprocess.run,
        [*command, "-U", "postgres", "locum"],
        env={"PATH": "/usr/bin:/bin", "PGPASSWORD": password},
        capture_output=True,
        check=False,
        cwd="/",
    )
    if checked.returncode:
        print(checked.stdout.decode()[-500:], checked.stderr.decode()[-500:], file=sys.stderr)
    return checked.returncode == 0


async def _digests(pair: Pair) -> tuple[int, int]:
    """How many pages of tables and B-trees differ from their source's on the disk, and how many are alike, at one LSN."""
    primary = await pair.a.connect()
    await primary.execute("CHECKPOINT")
    lsn = await primary.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint")
    await primary.close()
    await pair.b.wait(lambda report: (report.replay_lsn or 0) >= lsn, deadline_s=600)
    await _checkpoint(pair)
    dirs = pair.a.settings.data_dir, pair.b.settings.data_dir
    whole = [Range(file.path.partition(".")[0], file.first_block, file.pages) for file in relation_files(dirs[0])]
    differing = alike = 0
    for batch in in_batches([one for one in whole if one.count and relation_at(one.path) is not None]):
        (ours, _), (its, _) = await asyncio.gather(*(asyncio.to_thread(read_copies, at, batch) for at in dirs))
        for one, other in (
            (one, other) for pages in zip(ours, its, strict=True) for one, other in zip(*pages, strict=True)
        ):
            if one.digest is not None or other.digest is not None:
                differing += one.digest != other.digest
                alike += one.digest == other.digest
    return differing, alike


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--share", type=float, default=0.01, help="of pages that differ")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    said = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    console = Console(width=200, stderr=bool(said.json))
    found = asyncio.run(measure(said.gb, said.share, console))
    console.print(found)
    if said.json:
        print(msgspec.json.encode(found).decode())
    return 0 if not found["bad_pages"] and not found["pages_that_differ"] and found["same_rows_and_indexes"] else 1


if __name__ == "__main__":
    sys.exit(main())
