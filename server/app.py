"""The server's composition root: `run` is what `locum server --config FILE` does.

One process: the HTTP interface, the follower of the topology, the evidence poster, the demo clinic's clock.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from replication.wire.http import new_session
from replication.wire.process import listening, until_signal
from replication.wire.process import run as run_process
from replication.wire.secrets import read_secret
from server import context, health, middleware, permission, routes, routes_internal, slots, store
from server.audit import Audit
from server.clinic import Clinic
from server.clinic import load as load_clinic
from server.context import Context
from server.database import Database
from server.demo import demo_clinic
from server.errors import ReceiptsUnreadable, ServerError
from server.evidence import Evidence
from server.follow import follow
from server.guard import Guard
from server.idempotency import InFlight
from server.limits import RateLimit
from server.link import Login
from server.metrics import Metrics
from server.receipt_check import ReceiptChecker
from server.receipts import Receipts
from server.replay import Replay
from server.routes_key import KEPT_HOURS
from server.scheduling import Rules
from server.seal import Seal, row_key
from server.settings import ServerSettings, SettingsError, load
from server.siblings import Siblings
from server.tokens import Verifier, keys_of

_log = structlog.get_logger()

_SWITCH_S = 0.0005
"""The thread that syncs receipts gets its turn within so long; with Python's 5 ms it is what answers wait for."""
_DRAIN_MS = 2_000
_LAST_AUDIT_S = 1.0
_HEADER_BYTES_MAX = 16_384
_SWEEP_EVERY_S = 30.0
_FORGET_EVERY_S = 3_600.0


def run(settings_path: Path) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Settings that cannot be used end it with 1 and a sentence."""
    sys.setswitchinterval(_SWITCH_S)
    return run_process(functools.partial(_main, settings_path), "server", expected=(SettingsError, ServerError))


async def _main(settings_path: Path) -> int:
    settings = await asyncio.to_thread(load, settings_path)
    async with serving(settings):
        await until_signal()
    return 0


@asynccontextmanager
async def serving(settings: ServerSettings, rules: Rules | None = None) -> AsyncIterator[Context]:
    """A whole server while the block runs. Raises PortOccupied or SecretError before anything else happens."""
    token = await asyncio.to_thread(read_secret, settings.token_file)
    password = await asyncio.to_thread(read_secret, settings.password_file)
    seal = await asyncio.to_thread(read_secret, settings.seal_key_file)
    clinic = await asyncio.to_thread(_clinic, settings)
    metrics, evidence = Metrics(), Evidence(settings.name)
    async with new_session() as session, _task_group() as tasks:
        running: set[asyncio.Task[None]] = set()

        def spawn(work: Coroutine[Any, Any, None]) -> None:
            task = tasks.create_task(work)
            running.add(task)
            task.add_done_callback(running.discard)

        database = Database(settings, Login(password, row_key(seal)), spawn, evidence)
        receipts = Receipts(settings.state_dir / "receipts", Seal(seal), evidence.receipts_changed)
        await _load(receipts, settings.adopted)
        siblings = Siblings(receipts, settings.siblings)
        await siblings.catch_up()
        checker = ReceiptChecker(database, receipts, evidence)
        evidence.held = lambda: database.held
        replay = Replay(database, evidence, metrics, settings.lease_ttl_ms, spawn)
        guard = Guard(database, receipts, evidence, spawn, checker.check_again)
        replay.suspect = guard.suspect
        audit = Audit(functools.partial(replay.write, store.AUDIT_ACCESSES))
        metrics.watch("locum_server_audit_dropped", "Accesses that were not written down.", lambda: audit.dropped)
        shared = Context(settings, rules or Rules(), database, replay, InFlight(), metrics, receipts, guard, audit)
        ready = health.Ready(database, settings)
        _watch(metrics, database, evidence, receipts)
        metrics.watch(
            "locum_server_admission_refused", "Writes not let in: the queue is too long.", lambda: replay.refused
        )
        metrics.watch(
            "locum_server_rows_refused", "Rows that were not served: not as acknowledged.", lambda: guard.refused
        )
        app = make_app(shared, ready, session)
        routes_internal.add(app, token, database, siblings, checker)
        at = settings.listen_host, settings.listen_port
        try:
            async with listening(app, *at, shutdown_ms=_DRAIN_MS, reuse_port=settings.reuse_port):
                _start(spawn, session, token, shared, evidence, ready, clinic)
                spawn(checker.run())
                spawn(guard.run())
                spawn(siblings.run())
                spawn(audit.run())
                yield shared
            await audit.flush(_LAST_AUDIT_S)
        finally:
            for task in running:
                task.cancel()
            receipts.close()
            database.close()


async def _load(receipts: Receipts, adopted: list[Path]) -> None:
    try:
        damage = await asyncio.to_thread(receipts.load, adopted)
    except OSError as error:
        raise ReceiptsUnreadable(f"the receipts cannot be read: {error}; mend {error.filename}") from error
    for place in damage:
        _log.error("server.receipts_damaged", file=place.path, offset=place.offset)


@asynccontextmanager
async def _task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup whose only error is raised as itself, so that an occupied port stays one."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def make_app(shared: Context, ready: health.Ready, session: aiohttp.ClientSession) -> web.Application:
    """The HTTP interface."""
    auth = shared.settings.auth
    verifier = None if auth is None else Verifier(auth, functools.partial(keys_of, session, auth))
    app = web.Application(
        client_max_size=shared.settings.body_bytes_max,
        middlewares=[
            middleware.measured(shared.metrics),
            middleware.cors(shared.settings.cors_origins),
            middleware.errors,
            permission.authenticated(verifier),
            middleware.limited(_limit(shared.settings)),
            middleware.formats,
        ],
        handler_args={"max_line_size": _HEADER_BYTES_MAX, "max_field_size": _HEADER_BYTES_MAX},
    )
    app[context.KEY] = shared
    routes.add(app)
    health.add(app, ready, shared.metrics)
    return app


def _clinic(settings: ServerSettings) -> Clinic | None:
    """Whose slots this server keeps; None when another one does. Raises ClinicRefused."""
    if settings.clinic_file is not None:
        return load_clinic(settings.clinic_file)
    return demo_clinic(settings.demo_practitioners) if settings.demo_practitioners else None


def _limit(settings: ServerSettings) -> RateLimit | None:
    return RateLimit(settings.rate_per_s, settings.rate_burst) if settings.rate_per_s > 0 else None


def _start(
    spawn: Any,
    session: aiohttp.ClientSession,
    token: str,
    shared: Context,
    evidence: Evidence,
    ready: health.Ready,
    clinic: Clinic | None,
) -> None:
    settings, replay = shared.settings, shared.replay
    spawn(follow(session, settings.controller_url, settings.name, shared.database))
    spawn(evidence.run(session, settings.controller_url, token))
    spawn(slots.sweep(functools.partial(_end_holds, replay), _SWEEP_EVERY_S))
    spawn(slots.sweep(functools.partial(_forget_keys, replay), _FORGET_EVERY_S))
    if clinic is not None:
        spawn(slots.roll(replay, clinic, ready.seeded))
    else:
        ready.seeded()


async def _end_holds(replay: Replay) -> None:
    await replay.write(store.END_HOLDS, (), time.monotonic() + _SWEEP_EVERY_S)


async def _forget_keys(replay: Replay) -> None:
    """Keys that nobody has to remember any more. It reads the whole table, so seldom."""
    await replay.write(store.FORGET_KEYS, (float(KEPT_HOURS),), time.monotonic() + _SWEEP_EVERY_S)


def _watch(metrics: Metrics, database: Database, evidence: Evidence, receipts: Receipts) -> None:
    metrics.watch("locum_server_receipts", "Receipts that are kept.", lambda: len(receipts.newest()))
    metrics.watch("locum_server_receipt_batches", "Batches of receipts written and synced.", lambda: receipts.batches)
    metrics.watch(
        "locum_server_receipts_failing",
        "1 while receipts do not reach their disk.",
        lambda: receipts.problem is not None,
    )
    metrics.watch(
        "locum_server_receipts_lost",
        "Acknowledged writes that the last check did not find on the primary.",
        lambda: evidence.receipts.lost if evidence.receipts else 0,
    )
    metrics.watch("locum_server_held_requests", "Requests that wait for a primary.", lambda: database.held)
    metrics.watch("locum_server_writes_in_flight", "Writes sent and not answered.", lambda: evidence.writes_in_flight)
    metrics.watch(
        "locum_server_term", "Term of the topology obeyed.", lambda: database.topology.term if database.topology else 0
    )
    metrics.watch(
        "locum_server_connections",
        "Open connections to the primary.",
        lambda: database.primary.size if database.primary else 0,
    )
