"""/livez, /readyz and /metrics: what a supervisor and a load balancer ask."""

from __future__ import annotations

import time

from aiohttp import web

from replication.wire.http import json_response
from server.database import Database
from server.metrics import Metrics
from server.settings import ServerSettings


class Ready:
    """Whether bookings work. A primary that has just gone is no reason to say no: requests are held and replayed."""

    def __init__(self, database: Database, settings: ServerSettings) -> None:
        self._database = database
        self._patience_s = settings.request_deadline_ms / 2000
        self._is_seeded = False
        self._seen_primary = False

    def seeded(self) -> None:
        """The clinic is in the database (or none was asked for)."""
        self._is_seeded = True

    def problem(self) -> str | None:
        """Why bookings do not work, as a sentence; None when they do."""
        if self._database.primary is not None:
            self._seen_primary = True
            return None if self._is_seeded else "the clinic is not in the database yet"
        lost_s = self._database.lost_s
        lately = lost_s is not None and time.monotonic() - lost_s < self._patience_s
        if self._is_seeded and self._seen_primary and lately:
            return None
        return "there is no primary database"


def add(app: web.Application, ready: Ready, metrics: Metrics) -> None:
    """Register the three."""

    async def livez(request: web.Request) -> web.StreamResponse:
        del request
        return json_response({"status": "ok"})

    async def readyz(request: web.Request) -> web.StreamResponse:
        del request
        problem = ready.problem()
        if problem is None:
            return json_response({"status": "ok"})
        return json_response({"error": "not_ready", "sentence": problem}, 503)

    async def show(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show)
