"""The wire over real sockets: streams, deadlines, tokens, ports, secrets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp import web

from replication.wire.errors import PortOccupied, SecretError, WireError
from replication.wire.http import (
    error_middleware,
    get_bytes,
    json_response,
    new_session,
    post_json,
    read_json,
    token_guard,
)
from replication.wire.process import listening
from replication.wire.secrets import read_secret, write_private
from replication.wire.sse import EventHub, subscribe
from tests.ports import free_port


async def test_late_subscriber_gets_the_last_event_of_each_key_then_live_ones() -> None:
    hub, port = EventHub(), free_port()
    app = web.Application()
    app.router.add_get("/v1/stream", hub.serve)
    hub.publish("report", b'{"n": 1}', key="a")
    hub.publish("report", b'{"n": 2}', key="a")
    async with listening(app, "127.0.0.1", port), new_session() as session:
        async with aclosing(subscribe(session, f"http://127.0.0.1:{port}/v1/stream", idle_ms=5000)) as events:
            assert (await anext(events)).data == '{"n": 2}'
            hub.publish("report", b'{"n": 3}', key="a")
            assert (await anext(events)).data == '{"n": 3}'
            hub.close()
            with pytest.raises(WireError):
                await anext(events)


async def test_silent_stream_is_given_up() -> None:
    port = free_port()
    silent = await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), "127.0.0.1", port)
    async with silent, new_session() as session:
        with pytest.raises(WireError) as caught:
            async with aclosing(subscribe(session, f"http://127.0.0.1:{port}/", idle_ms=100)) as events:
                await anext(events)
        assert caught.value.silence == "timeout"


async def test_refused_and_silent_are_told_apart() -> None:
    port = free_port()
    async with new_session() as session:
        with pytest.raises(WireError) as caught:
            await get_bytes(session, f"http://127.0.0.1:{port}/", deadline_ms=2000)
        assert caught.value.silence == "refused"
        silent = await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), "127.0.0.1", port)
        async with silent:
            with pytest.raises(WireError) as caught:
                await get_bytes(session, f"http://127.0.0.1:{port}/", deadline_ms=100)
        assert caught.value.silence == "timeout"


@pytest.mark.parametrize(("token", "status"), [("right", 200), ("wrong", 401), (None, 401)])
async def test_writes_need_the_token(token: str | None, status: int) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return json_response(await read_json(request, dict[str, int]))

    app = web.Application(middlewares=[error_middleware, token_guard("right")])
    app.router.add_post("/v1/thing", echo)
    port = free_port()
    async with listening(app, "127.0.0.1", port), new_session() as session:
        url = f"http://127.0.0.1:{port}/v1/thing"
        assert (await post_json(session, url, {"n": 1}, token=token, deadline_ms=2000))[0] == status
        if status == 200:
            got, body = await post_json(session, url, {"n": "text"}, token=token, deadline_ms=2000)
            assert got == 400
            assert b"takes" in body


async def test_occupied_port_is_a_clear_error() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(PortOccupied, match="in use"):
            async with listening(web.Application(), "127.0.0.1", holder.getsockname()[1]):
                pass


def test_secrets_are_private_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_private(path, "s3cret\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(path) == "s3cret"
    path.chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600"):
        read_secret(path)
    write_private(path, "")
    with pytest.raises(SecretError, match="one line"):
        read_secret(path)
