"""A page of another origin, in a real browser, finds a time, books it once although it asks twice, reads it and is refused in words."""

from __future__ import annotations

import asyncio
import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from replication.wire.process import listening
from tests.integration.server.clinic import HOST, Clinic, clinic
from tests.ports import free_port

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PAGE = """<!doctype html><meta charset="utf-8"><title>A clinic</title><body><pre id="said">not yet</pre><script>
const server = "%s", fhir = {"Content-Type": "application/fhir+json"};
const ask = async (path, body, headers) => {
  const answer = await fetch(server + path, body === undefined ? {} : {
    method: "POST", headers: {...fhir, ...headers}, body: JSON.stringify({resourceType: "Parameters", parameter: body})});
  return {status: answer.status, etag: answer.headers.get("ETag"), body: await answer.json()};
};
(async () => {
  const said = {};
  try {
    const start = new Date(Date.now() + 3600e3).toISOString(), end = new Date(Date.now() + 8 * 864e5).toISOString();
    const found = await ask("/fhir/Appointment/$find", [{name: "start", valueDateTime: start}, {name: "end", valueDateTime: end}]);
    const proposal = found.body.entry[0].resource.id;
    const wanted = who => [{name: "appointment-reference", valueReference: {reference: "Appointment/" + proposal}},
                           {name: "patient-reference", valueReference: {reference: "Patient/" + who}}];
    const first = await ask("/fhir/Appointment/$book", wanted("ada"), {"Idempotency-Key": "from-the-page"});
    const again = await ask("/fhir/Appointment/$book", wanted("ada"), {"Idempotency-Key": "from-the-page"});
    const made = first.body.entry[0].resource;
    const read = await ask("/fhir/Appointment/" + made.id);
    const rival = await ask("/fhir/Appointment/$book", wanted("bob"), {"Idempotency-Key": "another"});
    const cancelled = await ask("/fhir/Appointment/$book",
      [{name: "appointment-resource", resource: {...made, status: "cancelled"}}], {"If-Match": first.etag || 'W/"1"'});
    Object.assign(said, {find: found.status, book: first.status, again: again.body.entry[0].resource.id === made.id, id: made.id,
      read: read.body.status, etag: read.etag, rival: rival.status, why: rival.body.issue && rival.body.issue[0].details.text,
      cancelled: cancelled.status});
  } catch (error) { said.error = String(error); }
  document.getElementById("said").textContent = JSON.stringify(said);
})();
</script></body>"""
_SAID = re.compile(r'<pre id="said">(.*?)</pre>', re.S)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: .ci/run installs it")


async def browse(page: str, profile: Path) -> str:
    """The document as it is when the page has come to rest."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium runs as root in no other way
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM or "", "--headless", *sandbox, "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
        *(f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", page),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(90):
            output, _ = await process.communicate()
        return output.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def visit(it: Clinic, port: int, profile: Path) -> dict[str, Any]:
    """What the page says when it is served from this port."""

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE % it.url, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", serve)
    async with listening(app, HOST, port, shutdown_ms=100):
        found = _SAID.search(await browse(f"http://{HOST}:{port}/", profile))
    assert found is not None
    said: dict[str, Any] = msgspec.json.decode(html.unescape(found[1]))
    return said


@pytest.mark.timeout(240)
async def test_a_page_on_another_origin_books_from_a_browser(tmp_path: Path) -> None:
    port = free_port()
    async with clinic(tmp_path, cors_origins=[f"http://{HOST}:{port}"]) as it:
        said = await visit(it, port, tmp_path / "profile")
        why = said.pop("why", None)
        made = said.pop("id", None)
        assert said == {
            "find": 200, "book": 201, "again": True, "read": "booked", "etag": 'W/"1"', "rival": 409, "cancelled": 200
        }  # fmt: skip
        assert "taken" in why
        async with it.node.sql() as connection:
            rows = await connection.fetch("SELECT id::text, status, patient_id FROM appointment")
        assert [tuple(row) for row in rows] == [(made, "cancelled", "ada")]


@pytest.mark.timeout(240)
async def test_a_page_of_an_origin_that_is_not_allowed_gets_nothing(tmp_path: Path) -> None:
    port = free_port()
    async with clinic(tmp_path, cors_origins=["https://clinic.example"]) as it:
        said = await visit(it, port, tmp_path / "profile")
        assert list(said) == ["error"]
        async with it.node.sql() as connection:
            assert await connection.fetchval("SELECT count(*) FROM appointment") == 0
