"""What `locum up` and the controller refuse: one clear sentence each, and nothing half-done."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from compose.layout import Layout, Ports
from compose.processes import child_environment
from tests.acceptance import fhir
from tests.acceptance.cluster import free_base_port, running


def up(*flags: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """`locum up` that is expected to refuse: exit code and what it said."""
    command = [*prefix, sys.executable, "-P", "-m", "compose", "up", *flags]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


def test_an_occupied_port_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    base = free_base_port()
    for port, owner in Ports(base).named().items():
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", port))
            holder.listen()
            code, said = up("--data", str(tmp_path / "data"), "--port", str(base))
        assert code == 1
        assert f"port {port}" in said
        assert owner in said
        assert "Traceback" not in said
        assert not (tmp_path / "data").exists()


def test_a_data_directory_of_another_version_is_left_as_it_was(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.pgdata("a").mkdir(parents=True)
    layout.secrets.mkdir()
    (layout.pgdata("a") / "PG_VERSION").write_text("13\n", encoding="ascii")
    before = sorted(layout.root.rglob("*"))
    code, said = up("--data", str(layout.root), "--port", str(free_base_port()))
    assert code == 1
    assert "PostgreSQL 13" in said
    assert "--pg-bindir" in said
    assert sorted(layout.root.rglob("*")) == before


def test_a_directory_with_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    code, said = up("--data", str(tmp_path), "--port", str(free_base_port()))
    assert code == 1
    assert "neither empty nor made by" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        code, said = up("--data", str(tmp_path / "data"), "--port", str(free_base_port()))
    finally:
        tmp_path.chmod(0o700)
    assert code == 1
    assert "cannot be written" in said


def test_a_full_disk_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    namespace = ("unshare", "--user", "--map-root-user", "--mount", "--")
    allowed = shutil.which("unshare") and subprocess.run(
        [*namespace, "true"], capture_output=True, check=False, timeout=10
    )
    if not allowed or allowed.returncode != 0:
        pytest.skip("this kernel does not allow user namespaces, so no small disk can be mounted")
    script = 'mount -t tmpfs -o size=16m small "$0" && "$@"; code=$?; ls -A "$0" | sed "s/^/LEFT /"; exit $code'
    code, said = up(
        "--data", str(tmp_path), "--port", str(free_base_port()), prefix=(*namespace, "sh", "-c", script, str(tmp_path))
    )
    assert code == 1
    assert "MB free" in said
    assert "LEFT" not in said


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--nodes", "3"), 1, "quorum promotion"),
        (("--port", "80"), 1, "1024 to 65513"),
        (("--port", "65530"), 1, "1024 to 65513"),
        (("--port", "many"), 2, "valid integer"),
        (("--demo-practitioners", "81"), 1, "0 to 80"),
        (("--no-demo", "--demo-practitioners", "5"), 2, "exclude each other"),
        (("--pg-bindir", "/nowhere"), 1, "/nowhere"),
        (("--config", "/nowhere.toml"), 1, "/nowhere.toml"),
        (("--frobnicate",), 2, "No such option"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_made(
    tmp_path: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    data = tmp_path / "data"
    got, said = up("--data", str(data), *flags)
    assert (got, words in said) == (code, True), said
    assert not data.exists()


async def test_a_running_cluster_refuses_what_it_must(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        code, said = up("--data", str(cluster.layout.root), "--port", str(free_base_port()))
        assert (code, "another `locum up` runs" in said) == (1, True), said

        term = (await cluster.view())["term"]
        status, answer = await cluster.post("/v1/switchover", {"expected_term": term, "reason": "x"}, token="wrong")
        assert status == 401, answer
        status, answer = await cluster.post("/v1/switchover", {"expected_term": term + 1, "reason": "x"})
        assert status == 409, answer
        status, answer = await cluster.post("/v1/switchover", {"expected_term": "one", "reason": "x"})
        assert status in (400, 422), answer
        status, answer = await cluster.post("/v1/nodes/zebra/fence", {"expected_term": term, "reason": "x"})
        assert status == 404, answer
        assert (await cluster.view())["term"] == term

        slot = next(await fhir.endless(cluster.session, cluster.ready.server))
        past = {"name": "start", "valueDateTime": "yesterday"}
        good = msgspec.json.encode(fhir.book_body(slot.id, "p"))
        for content, expected in (
            (b"{", {400}),
            (b"[]", {400, 422}),
            (msgspec.json.encode(fhir.parameters(past)), {400, 422}),
            (msgspec.json.encode(fhir.book_body("no-such-proposal", "p")), {404, 422}),
            (good + b" " * 4_000_000, {413}),
        ):
            headers = {"Content-Type": "application/fhir+json"}
            async with cluster.session.post(fhir.book_url(cluster.ready.server), data=content, headers=headers) as got:
                assert got.status in expected, (content[:80], got.status, await got.text())
                assert (await got.json(content_type=None))["resourceType"] == "OperationOutcome"
