"""Paths, ports, flags over file over defaults, and the settings that `up` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from compose import links, ready
from compose.checks import check_options
from compose.credentials import NAMES, ensure_secrets
from compose.errors import BadSettings, UpRefused
from compose.layout import NODES, Layout, Ports
from compose.links import links_between
from compose.options import ConfigFile, UpOptions, read_config, up_options
from compose.settings_files import agent_settings, check_settings, write_settings

NOTHING: dict[str, Any] = {
    "data": None,
    "port": None,
    "nodes": None,
    "demo_practitioners": None,
    "pg_bindir": None,
    "ready_file": None,
    "observe_only": False,
    "proxied": False,
}


def prepared(root: Path) -> Layout:
    layout = Layout(root)
    for directory in layout.directories():
        directory.mkdir(mode=0o700, exist_ok=True)
    return layout


def url_port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_ports_are_those_of_the_contract() -> None:
    ports = Ports(8080)
    assert (ports.server, ports.controller) == (8080, 8081)
    assert [ports.agent(node) for node in NODES] == [8091, 8092]
    assert [ports.postgres(node) for node in NODES] == [8101, 8102]
    assert len(ports.named()) == 6


def test_links_have_ports_of_their_own_after_those_of_the_contract() -> None:
    plain, proxied = Ports(8080), Ports(8080, proxied=True)
    assert plain.highest == 8102
    added = set(proxied.named()) - set(plain.named())
    assert sorted(added) == list(range(8111, 8121))
    assert len(set(proxied.named().values())) == len(proxied.named())
    assert {link.target for link in links_between(NODES)} <= set(proxied.listening())


@pytest.mark.parametrize(("proxied", "highest"), [(False, 65513), (True, 65495)])
def test_the_highest_base_port_leaves_room_for_every_port(tmp_path: Path, proxied: bool, highest: int) -> None:
    check_options(UpOptions(data=tmp_path, port=highest, proxied=proxied))
    with pytest.raises(UpRefused, match=f"1024 to {highest}"):
        check_options(UpOptions(data=tmp_path, port=highest + 1, proxied=proxied))


def test_links_are_refused_where_their_socket_would_have_too_long_a_path() -> None:
    deep = Path("/", "d" * 100)
    check_options(UpOptions(data=deep))
    with pytest.raises(UpRefused, match="choose a shorter directory"):
        check_options(UpOptions(data=deep, proxied=True))


def test_a_flag_wins_over_the_file_and_the_file_over_the_default() -> None:
    config = ConfigFile(port=9000, demo_practitioners=7)
    assert up_options(ConfigFile(), **NOTHING).port == 8080
    assert up_options(config, **NOTHING).port == 9000
    assert [up_options(ConfigFile(proxied=said), **NOTHING).proxied for said in (False, True)] == [False, True]
    said = up_options(config, **{**NOTHING, "port": 9100, "demo_practitioners": 0})
    assert (said.port, said.demo_practitioners) == (9100, 0)
    assert said.data == Path.cwd() / "locum-data"


@pytest.mark.parametrize(
    ("text", "word"), [("prot = 8080", "prot"), ('port = "x"', "port"), ("port = [", "not a valid"), (None, "No such")]
)
def test_a_bad_settings_file_is_named_with_its_reason(tmp_path: Path, text: str | None, word: str) -> None:
    path = tmp_path / "locum.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(BadSettings, match=word) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_secrets_are_made_once_private_and_all_different(tmp_path: Path) -> None:
    layout = prepared(tmp_path / "data")
    ensure_secrets(layout)
    first = {name: (layout.secrets / name).read_text(encoding="utf-8") for name in NAMES}
    ensure_secrets(layout)
    assert {name: (layout.secrets / name).read_text(encoding="utf-8") for name in NAMES} == first
    assert len(set(first.values())) == len(NAMES)
    assert {(layout.secrets / name).stat().st_mode & 0o777 for name in NAMES} == {0o600}


def test_every_process_reads_the_settings_that_up_writes(tmp_path: Path) -> None:
    layout, ports = prepared(tmp_path / "data"), Ports(21000)
    said = UpOptions(
        data=layout.root,
        port=21000,
        observe_only=True,
        agent={"probe_interval_ms": 200, "postgres": {"work_mem": "8MB"}},
        failover={"policy": {"standby_lost_ms": 1500}},
    )
    write_settings(layout, ports, said)
    check_settings(layout)
    agent = msgspec.toml.decode(layout.settings("agent-b").read_bytes())
    assert agent["probe_interval_ms"] == 200
    assert agent["peers"]["a"]["postgres_port"] == 21021
    controller = msgspec.toml.decode(layout.settings("controller").read_bytes())
    assert controller["policy"] == {"standby_lost_ms": 1500, "probe_interval_ms": 200, "observe_only": True}
    assert layout.settings("server").stat().st_mode & 0o777 == 0o600


def read_settings(layout: Layout) -> dict[str, dict[str, Any]]:
    return {file.stem: msgspec.toml.decode(file.read_bytes()) for file in layout.config.iterdir()}


def test_with_proxies_every_process_reaches_every_other_through_the_link_between_them(tmp_path: Path) -> None:
    layout, ports = prepared(tmp_path / "data"), Ports(21000, proxied=True)
    write_settings(layout, ports, UpOptions(data=layout.root, port=21000, proxied=True))
    check_settings(layout)
    made = read_settings(layout)
    reached = {
        "controller-agent-a": url_port(made["controller"]["nodes"]["a"]["agent_url"]),
        "controller-agent-b": url_port(made["controller"]["nodes"]["b"]["agent_url"]),
        "agent-a-agent-b": url_port(made["agent-a"]["peers"]["b"]["agent_url"]),
        "agent-b-agent-a": url_port(made["agent-b"]["peers"]["a"]["agent_url"]),
        "node-a-postgres-b": made["agent-a"]["peers"]["b"]["postgres_port"],
        "node-b-postgres-a": made["agent-b"]["peers"]["a"]["postgres_port"],
        "server-postgres-a": made["controller"]["nodes"]["a"]["postgres_port"],
        "server-postgres-b": made["controller"]["nodes"]["b"]["postgres_port"],
        "server-controller": url_port(made["server"]["controller_url"]),
        "controller-server": url_port(made["controller"]["server_urls"][0]),
    }
    proxies = links.load(layout.settings("proxies"))
    assert {name: link.listen_port for name, link in proxies.links.items()} == reached
    real = ports.listening()
    for name, link in proxies.links.items():
        assert [process for process, port in real.items() if port == link.target_port and name.endswith(process)]
    assert proxies.control == layout.links_socket


def test_with_proxies_every_process_listens_where_it_did_and_nothing_else_changes(tmp_path: Path) -> None:
    made: dict[bool, dict[str, dict[str, Any]]] = {}
    for proxied in (False, True):
        layout = prepared(tmp_path / "data")
        write_settings(layout, Ports(21000, proxied), UpOptions(data=layout.root, port=21000, proxied=proxied))
        made[proxied] = read_settings(layout)
    assert set(made[True]) - set(made[False]) == {"proxies"}
    changed = {
        (process, key)
        for process, settings in made[False].items()
        for key, value in settings.items()
        if made[True][process][key] != value
    }
    assert changed == {
        ("agent-a", "peers"),
        ("agent-b", "peers"),
        ("controller", "nodes"),
        ("controller", "server_urls"),
        ("server", "controller_url"),
    }
    assert "proxies" not in made[False]


def test_the_ready_file_names_the_control_socket_only_where_there_is_one(tmp_path: Path) -> None:
    layout = prepared(tmp_path / "data")
    ensure_secrets(layout)
    for proxied in (False, True):
        ready.write(layout.locum_json, ready.describe(layout, Ports(21000, proxied), {}))
        written = msgspec.json.decode(layout.locum_json.read_bytes())
        assert written.get("proxies", "nothing") == (str(layout.links_socket) if proxied else "nothing")
        assert written["nodes"]["a"]["port"] == 21021


def test_a_person_cannot_move_a_path_or_a_port_of_up(tmp_path: Path) -> None:
    layout = prepared(tmp_path / "data")
    write_settings(layout, Ports(21000), UpOptions(data=layout.root, agent={"data_dir": "/elsewhere"}))
    made = msgspec.toml.decode(layout.settings("agent-a").read_bytes())
    assert made["data_dir"] == str(layout.pgdata("a"))
    assert made == agent_settings(layout, Ports(21000), UpOptions(data=layout.root), "a")


def test_a_word_that_a_process_does_not_know_is_refused_before_it_starts(tmp_path: Path) -> None:
    layout = prepared(tmp_path / "data")
    write_settings(layout, Ports(21000), UpOptions(data=layout.root, agent={"probe_intervall_ms": 1}))
    with pytest.raises(BadSettings, match="probe_intervall_ms"):
        check_settings(layout)


def test_a_time_that_is_said_once_reaches_every_process_that_needs_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.config.mkdir(parents=True)
    said = UpOptions(data=layout.root, failover={"policy": {"lease_ttl_ms": 5_000}}, agent={"heartbeat_ms": 200})
    write_settings(layout, Ports(21000), said)
    read = {
        name: msgspec.toml.decode(layout.settings(name).read_bytes()) for name in ("agent-a", "server", "controller")
    }
    assert read["agent-a"]["lease_ttl_ms"] == read["server"]["lease_ttl_ms"] == 5_000
    assert read["controller"]["policy"] == {"lease_ttl_ms": 5_000, "heartbeat_ms": 200}
    assert "heartbeat_ms" not in read["server"]


def test_times_that_contradict_each_other_are_refused_with_both_places(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    said = UpOptions(data=layout.root, server={"lease_ttl_ms": 9_000}, failover={"policy": {"lease_ttl_ms": 3_000}})
    with pytest.raises(BadSettings, match=r"9000 in \[server\] and 3000 in \[failover.policy\]"):
        write_settings(layout, Ports(21000), said)
    assert not layout.settings("server").exists()
