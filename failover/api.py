"""The controller's HTTP interface: DESIGN section 7, and docs/PROTOCOL.md for what the other parts send."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from failover import incidents
from failover.bundle import bundle
from failover.cluster_view import ClusterView
from failover.core.model import Command, CommandKind
from failover.errors import CommandUnanswered, StoreError
from failover.loop import Loop
from failover.metrics import show_cluster
from replication.model import ServerReport
from replication.wire.errors import WireError
from replication.wire.http import error_middleware, json_response, read_json, token_guard

if TYPE_CHECKING:
    from failover.controller import Controller

COMMAND_DEADLINE_MS = 8_000
_BODY_BYTES_MAX = 256 * 1024
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_CLUSTER_COMMANDS = {
    "/v1/switchover": CommandKind.SWITCHOVER,
    "/v1/failover": CommandKind.FAILOVER,
    "/v1/pause": CommandKind.PAUSE,
    "/v1/resume": CommandKind.RESUME,
}
_SCRUB = "scrub"
_NODE_COMMANDS = {kind.value: kind for kind in (CommandKind.FENCE, CommandKind.UNFENCE, CommandKind.REBUILD)}


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of every action."""

    expected_term: int
    reason: str = ""
    to: str | None = None
    accept_data_loss: bool = False
    primary_is_dead: bool = False
    accept_damage: bool = False
    for_: str | None = msgspec.field(name="for", default=None)
    note: str | None = None


def make_app(controller: Controller, token: str) -> web.Application:
    """The application of one controller; every POST under /v1/ needs the bearer token."""
    api = ControllerApi(controller)
    app = web.Application(
        middlewares=[error_middleware, token_guard(token), api.only_leading], client_max_size=_BODY_BYTES_MAX
    )
    app.add_routes(
        [
            web.get("/livez", api.livez),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/v1/cluster", api.cluster),
            web.get("/v1/topology", api.topology),
            web.get("/v1/incidents", api.list_incidents),
            web.get("/v1/incidents/{incident}", api.show_incident),
            web.post("/v1/incidents/{incident}/close", api.close_incident),
            web.post("/v1/incidents/{incident}/bundle", api.bundle_incident),
            web.get("/v1/drill", api.drill),
            web.post("/v1/evidence", api.evidence),
            web.post("/v1/nodes/{node}/{verb}", api.command_node),
            *(web.post(path, api.command_cluster) for path in _CLUSTER_COMMANDS),
        ]
    )
    return app


class ControllerApi:
    """One method a route."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    @web.middleware
    async def only_leading(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A controller that does not lead, or whose store is broken, says so (503) rather than guess."""
        if request.path.startswith("/v1/") and self._controller.loop is None:
            return _unavailable("this controller stands by: another one holds the leader lease; ask again in a second")
        try:
            return await handler(request)
        except StoreError as error:
            return _unavailable(str(error))

    async def cluster(self, request: web.Request) -> web.Response:
        """The whole cluster as JSON."""
        del request
        return json_response(self._shown())

    async def drill(self, request: web.Request) -> web.Response:
        """Whether and how this deployment may be drilled; 404 when it is no drill target."""
        del request
        target = self._controller.settings.drill
        if target is None:
            return _refused(404, "this deployment is not marked as a drill target (locum up --drill-target)")
        return json_response({"ready_file": str(target.ready_file), "allows": target.allows})

    async def topology(self, request: web.Request) -> web.StreamResponse:
        """The topology record at once and after every change, as server-sent events."""
        return await self._controller.hub.serve(request)

    async def list_incidents(self, request: web.Request) -> web.Response:
        """Every incident, newest last."""
        del request
        return json_response(incidents.build(await self._loop.store.incident_events()))

    async def show_incident(self, request: web.Request) -> web.Response:
        """One incident, whole."""
        return json_response(await self._incident(request.match_info["incident"]))

    async def bundle_incident(self, request: web.Request) -> web.Response:
        """One incident with the evidence of every node, as a tar.gz. It holds pages, and so patients' data: it needs the token."""
        incident = await self._incident(request.match_info["incident"])
        body = await bundle(incident, self._controller.agents)
        return web.Response(body=body, content_type="application/gzip")

    async def close_incident(self, request: web.Request) -> web.Response:
        """Close an open incident by hand, with a note."""
        ask = await read_json(request, Ask)
        incident = await self._incident(request.match_info["incident"])
        if incident.closed_at is not None:
            return _refused(409, f"incident {incident.id} was closed at {incident.closed_at}")
        if not ask.note:
            return _refused(422, 'say why it may be closed: {"note": "…"}')
        kind = CommandKind.CLOSE_INCIDENT
        return await self._ask(_command(kind, ask, incident=incident.id, reason=ask.note))

    async def command_cluster(self, request: web.Request) -> web.Response:
        """switchover, failover, pause, resume."""
        ask = await read_json(request, Ask)
        kind = _CLUSTER_COMMANDS[request.path]
        if ask.to is not None and ask.to not in self._loop.state.nodes:
            return self._unknown_node(ask.to)
        for_ms = None
        if ask.for_ is not None:
            for_ms = duration_ms(ask.for_)
            if for_ms is None:
                return _refused(422, f"{ask.for_!r} is not a time; write 90s, 30m or 2h")
        return await self._ask(_command(kind, ask, node=ask.to, for_ms=for_ms))

    async def command_node(self, request: web.Request) -> web.Response:
        """fence, unfence, rebuild, and scrub, which changes nothing and so needs no decision."""
        node, verb = request.match_info["node"], request.match_info["verb"]
        if verb not in (*_NODE_COMMANDS, _SCRUB):
            raise web.HTTPNotFound(
                text=f"no such action on a node: {verb}; there are {', '.join(sorted((*_NODE_COMMANDS, _SCRUB)))}"
            )
        ask = await read_json(request, Ask)
        if node not in self._loop.state.nodes:
            return self._unknown_node(node)
        if verb == _SCRUB:
            return await self._scrub(node, ask)
        return await self._ask(_command(_NODE_COMMANDS[verb], ask, node=node))

    async def _scrub(self, node: str, ask: Ask) -> web.Response:
        term = self._loop.state.term
        if ask.expected_term != term:
            return _refused(409, f"term {ask.expected_term} is over: it is {term} now")
        try:
            await self._controller.agents[node].scrub()
        except WireError as error:
            return _unavailable(str(error))
        return json_response({"accepted": True, "sentence": f"{node} reads all of its pages", "term": term}, 202)

    async def evidence(self, request: web.Request) -> web.Response:
        """A server's report; what it says anew is looked at in a tick of its own."""
        if self._controller.servers.note(await read_json(request, ServerReport)):
            self._loop.wake()
        return json_response({"accepted": True}, 202)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus."""
        del request
        loop = self._controller.loop
        show_cluster(self._controller.metrics, loop.shown() if loop is not None else None)
        body = self._controller.metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def livez(self, request: web.Request) -> web.Response:
        """The event loop runs."""
        del request
        return json_response({"ok": True})

    async def readyz(self, request: web.Request) -> web.Response:
        """It leads and has looked at the agents."""
        del request
        loop = self._controller.loop
        if loop is None:
            return _unavailable("this controller stands by")
        if loop.observation is None:
            return _unavailable("this controller has not looked at the agents yet")
        return json_response({"ok": True})

    @property
    def _loop(self) -> Loop:
        loop = self._controller.loop
        if loop is None:
            raise web.HTTPServiceUnavailable(text="this controller no longer leads")
        return loop

    def _shown(self) -> ClusterView:
        shown = self._loop.shown()
        if shown is None:
            raise web.HTTPServiceUnavailable(text="this controller has just begun to look at the agents; ask again")
        return shown

    async def _incident(self, name: str) -> incidents.Incident:
        found = incidents.build(await self._loop.store.incident_events(name))
        if not found:
            raise web.HTTPNotFound(text=f"there is no incident {name}; GET /v1/incidents lists them")
        return found[0]

    async def _ask(self, command: Command) -> web.Response:
        loop = self._loop
        try:
            reply = await self._controller.desk.ask(command, deadline_ms=COMMAND_DEADLINE_MS, wake=loop.wake)
        except CommandUnanswered as error:
            return _unavailable(str(error))
        if reply.status == 202:
            return json_response({"accepted": True, "sentence": reply.sentence, "term": loop.state.term}, 202)
        return _refused(reply.status, reply.sentence)

    def _unknown_node(self, name: str) -> web.Response:
        return _refused(404, f"there is no node {name}; nodes: {', '.join(sorted(self._loop.state.nodes))}")


def duration_ms(text: str) -> int | None:
    """`90s`, `30m`, `2h` in milliseconds; None for anything else."""
    match = re.fullmatch(r"(\d{1,9})(ms|s|m|h)", text)
    return int(match[1]) * _UNITS_MS[match[2]] if match is not None else None


def _command(
    kind: CommandKind,
    ask: Ask,
    *,
    node: str | None = None,
    for_ms: int | None = None,
    incident: str | None = None,
    reason: str | None = None,
) -> Command:
    return Command(
        id=secrets.token_hex(8),
        kind=kind,
        expected_term=ask.expected_term,
        node=node,
        reason=ask.reason if reason is None else reason,
        accept_data_loss=ask.accept_data_loss,
        primary_is_dead=ask.primary_is_dead,
        accept_damage=ask.accept_damage,
        for_ms=for_ms,
        incident=incident,
    )


_WORDS = {404: "not_found", 409: "conflict", 422: "unprocessable", 503: "unavailable"}


def _refused(status: int, sentence: str) -> web.Response:
    return json_response({"error": _WORDS.get(status, "refused"), "sentence": sentence}, status)


def _unavailable(sentence: str) -> web.Response:
    return json_response({"error": "unavailable", "sentence": sentence}, 503, {"Retry-After": "1"})
