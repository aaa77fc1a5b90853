"""One agent as its peers and the controller call it: typed, each call with a deadline (docs/PROTOCOL.md).

Every method raises WireError when the agent cannot be reached, does not answer in time, or answers what it should not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import aiohttp
import msgspec

from replication.actions import Action, LeaseRenewal, Refusal
from replication.difference.protocol import AskPages, BeginCopy, Begun, EndedCopy
from replication.model import NodeReport
from replication.scrub.compare import Copies, Judgement, JudgePage, Range
from replication.scrub.status_protocol import AskStatus, StatusPage, StatusSpan
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, post_json
from replication.wire.sse import subscribe

T = TypeVar("T")

_OBSERVE_MS = 750
_ACT_MS = 1_000
_PAUSE_MS = 1_000
_WAL_MS = 30_000
_PAGES_MS = 20_000
_COPY_MS = 60_000
_BEGIN_MS = 420_000
_STREAM_IDLE_MS = 3_000


class RefusedAction(msgspec.Struct, frozen=True):
    """Why an agent did not accept an action, as a word and as a sentence."""

    refused: Refusal
    sentence: str


class WalEnd(msgspec.Struct, frozen=True):
    """Where a node's WAL ends: the end and the start of its last complete record, and where its recovery would begin."""

    end_lsn: int
    last_record_lsn: int | None
    timeline: int
    redo_lsn: int
    live: bool
    incarnation: str | None


class WalHash(msgspec.Struct, frozen=True):
    """SHA-256 of WAL bytes, as hexadecimal digits, and how far the node's WAL was flushed when it was made."""

    sha256: str
    flush_lsn: int | None
    timelines: tuple[int, ...]


class WalError(msgspec.Struct, frozen=True):
    """Where the node's WAL cannot be read, although it is flushed further; None: it can be."""

    lsn: int | None
    said: str = ""


class History(msgspec.Struct, frozen=True):
    """A running node's timeline, and for each earlier one the LSN at which it was left."""

    timeline: int
    forks: dict[str, int]


class AgentClient:
    """Calls to one agent. The session is shared and belongs to the caller."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._token = token

    async def observe(
        self, *, witness: bool = False, fresh: bool = False, deadline_ms: int = _OBSERVE_MS
    ) -> NodeReport:
        """The node's report; with `witness`, after a fresh look at its peer; with `fresh`, at its own PostgreSQL."""
        asked = [name for name, wanted in (("witness=1", witness), ("fresh=1", fresh)) if wanted]
        path = "/v1/observe" + ("?" + "&".join(asked) if asked else "")
        return await self._get(path, NodeReport, deadline_ms)

    async def events(self, *, idle_ms: int = _STREAM_IDLE_MS) -> AsyncIterator[NodeReport]:
        """Reports as they are pushed. Ends only with a WireError: the end of the stream is the agent's death notice."""
        async with aclosing(subscribe(self._session, f"{self._url}/v1/events", idle_ms=idle_ms)) as stream:
            async for event in stream:
                if event.event == "report":
                    yield _decoded(event.data.encode(), NodeReport, self._url)

    async def act(self, action: Action, *, deadline_ms: int = _ACT_MS) -> RefusedAction | None:
        """Hand over an action: None when it was accepted."""
        status, body = await self._post("/v1/actions", action, deadline_ms)
        if status == 202:
            return None
        if status == 409:
            return _decoded(body, RefusedAction, self._url)
        raise WireError(f"{self._url} answered {status} to an action: {body[:200].decode(errors='replace')}", "error")

    async def renew_lease(self, renewal: LeaseRenewal, *, deadline_ms: int = _ACT_MS) -> None:
        """Extend its node lease; a refusal is a WireError too."""
        self._checked(*await self._post("/v1/lease", renewal, deadline_ms), "/v1/lease", dict[str, Any])

    async def wal_end(self, *, deadline_ms: int = _WAL_MS) -> WalEnd:
        """Where its WAL ends."""
        return await self._get("/v1/wal/end", WalEnd, deadline_ms)

    async def wal_hash(
        self, timeline: int, start_lsn: int, end_lsn: int, *, deadline_ms: int = _WAL_MS
    ) -> WalHash | None:
        """The hash of the WAL bytes in [start, end) of a timeline's history; None when it no longer has them."""
        path = f"/v1/wal/hash?timeline={timeline}&start={start_lsn}&end={end_lsn}"
        status, body = await get_bytes(self._session, self._url + path, deadline_ms=deadline_ms)
        if status == 404:
            return None
        return self._checked(status, body, path, WalHash)

    async def wal_error(
        self, timeline: int, start_lsn: int, end_lsn: int, *, deadline_ms: int = _WAL_MS
    ) -> WalError | None:
        """Whether its WAL in [start, end) can be read, as recovery would; None when it no longer has it."""
        path = f"/v1/wal/error?timeline={timeline}&start={start_lsn}&end={end_lsn}"
        status, body = await get_bytes(self._session, self._url + path, deadline_ms=deadline_ms)
        if status == 404:
            return None
        return self._checked(status, body, path, WalError)

    async def history(self, *, deadline_ms: int = _ACT_MS) -> History:
        """Its timeline and where the earlier ones were left."""
        return await self._get("/v1/history", History, deadline_ms)

    async def pause_replay(self) -> None:
        """Pause replay for the growth proof: returns once it stands still; lifted by itself after a second."""
        self._checked(*await self._post("/v1/replay/pause", {}, _PAUSE_MS), "/v1/replay/pause", dict[str, bool])

    async def resume_replay(self) -> None:
        """Lift the pause."""
        self._checked(*await self._post("/v1/replay/resume", {}, _PAUSE_MS), "/v1/replay/resume", dict[str, bool])

    async def scrub(self, *, deadline_ms: int = _ACT_MS) -> None:
        """Begin a pass over all pages now; a refusal is a WireError too."""
        status, body = await self._post("/v1/scrub", {}, deadline_ms)
        if status != 202:
            raise WireError(f"{self._url} does not scrub: {body[:200].decode(errors='replace')}", "error")

    async def copies(self, ranges: list[Range], *, deadline_ms: int = _PAGES_MS) -> Copies:
        """Its copies of these pages, as they lie on its disk."""
        return self._checked(*await self._post("/v1/pages/copies", ranges, deadline_ms), "/v1/pages/copies", Copies)

    async def judge(self, question: JudgePage, *, deadline_ms: int = _PAGES_MS) -> Judgement:
        """What it says of its own copy of a page that somebody doubts."""
        return self._checked(*await self._post("/v1/pages/judge", question, deadline_ms), "/v1/pages/judge", Judgement)

    async def copy_begin(self, asked: BeginCopy, *, deadline_ms: int = _BEGIN_MS) -> Begun:
        """Begin a backup there."""
        return self._checked(*await self._post("/v1/copy/begin", asked, deadline_ms), "/v1/copy/begin", Begun)

    async def copy_pages(self, asked: AskPages, *, deadline_ms: int = _COPY_MS) -> bytes:
        """Hashes of pages of that backup, or the pages."""
        return await self._bytes("/v1/copy/pages", asked, deadline_ms) or b""

    async def copy_file(self, path: str, *, deadline_ms: int = _COPY_MS) -> bytes | None:
        """A file of that backup; None for one that is gone."""
        return await self._bytes("/v1/copy/file", {"path": path}, deadline_ms)

    async def copy_wal(self, name: str, *, deadline_ms: int = _COPY_MS) -> bytes | None:
        """A segment of its WAL; None for one that is gone."""
        return await self._bytes("/v1/copy/wal", {"path": name}, deadline_ms)

    async def copy_end(self, *, deadline_ms: int = _COPY_MS) -> EndedCopy:
        """End the backup."""
        return self._checked(*await self._post("/v1/copy/end", {}, deadline_ms), "/v1/copy/end", EndedCopy)

    async def _bytes(self, path: str, value: object, deadline_ms: int) -> bytes | None:
        status, body = await self._post(path, value, deadline_ms)
        if status == 404:
            return None
        if status != 200:
            raise WireError(f"{self._url}{path} answered {status}: {body[:200].decode(errors='replace')}", "error")
        return body

    async def raw_page(self, asked: JudgePage, *, deadline_ms: int = _PAGES_MS) -> bytes | None:
        """One page as it lies on its disk; None where it has none."""
        status, body = await self._post("/v1/pages/raw", asked, deadline_ms)
        if status == 404:
            return None
        if status != 200:
            raise WireError(f"{self._url}/v1/pages/raw answered {status}", "error")
        return body

    async def evidence(self, *, deadline_ms: int = _PAGES_MS) -> bytes:
        """What it has kept of the faults that it found, as a tar archive."""
        status, body = await self._post("/v1/evidence", {}, deadline_ms)
        if status != 200:
            raise WireError(f"{self._url}/v1/evidence answered {status}", "error")
        return body

    async def status_span(self, oldest: int, below: int, *, deadline_ms: int = _PAGES_MS) -> StatusSpan:
        """Its digests of pg_xact."""
        found = await self._post("/v1/pages/xact", AskStatus(oldest, below), deadline_ms)
        return self._checked(*found, "/v1/pages/xact", StatusSpan)

    async def status_page(self, page: int, oldest: int, below: int, *, deadline_ms: int = _PAGES_MS) -> bytes:
        """One page of its pg_xact."""
        found = await self._post("/v1/pages/xact", AskStatus(oldest, below, page), deadline_ms)
        return bytes.fromhex(self._checked(*found, "/v1/pages/xact", StatusPage).hexadecimal)

    async def _get(self, path: str, type_: type[T], deadline_ms: int) -> T:
        status, body = await get_bytes(self._session, self._url + path, deadline_ms=deadline_ms)
        return self._checked(status, body, path, type_)

    async def _post(self, path: str, value: object, deadline_ms: int) -> tuple[int, bytes]:
        return await post_json(self._session, self._url + path, value, token=self._token, deadline_ms=deadline_ms)

    def _checked(self, status: int, body: bytes, path: str, type_: type[T]) -> T:
        if status != 200:
            sentence = f"{self._url}{path} answered {status}: {body[:200].decode(errors='replace')}"
            raise WireError(sentence, "error")
        return _decoded(body, type_, self._url)


def _decoded(body: bytes, type_: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise WireError(f"{url} answered what an agent does not answer: {error}", "error") from error
