"""Paths, ports, flags over file over defaults, and the settings that `up` writes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from compose.credentials import NAMES, ensure_secrets
from compose.errors import BadSettings
from compose.layout import NODES, Layout, Ports
from compose.options import ConfigFile, UpOptions, read_config, up_options
from compose.settings_files import agent_settings, check_settings, write_settings

NOTHING = {
    "data": None,
    "port": None,
    "nodes": None,
    "demo_practitioners": None,
    "pg_bindir": None,
    "ready_file": None,
    "observe_only": False,
}


def prepared(root: Path) -> Layout:
    layout = Layout(root)
    for directory in layout.directories():
        directory.mkdir(mode=0o700, exist_ok=True)
    return layout


def test_ports_are_those_of_the_contract() -> None:
    ports = Ports(8080)
    assert (ports.server, ports.controller) == (8080, 8081)
    assert [ports.agent(node) for node in NODES] == [8091, 8092]
    assert [ports.postgres(node) for node in NODES] == [8101, 8102]
    assert len(ports.named()) == 6


def test_a_flag_wins_over_the_file_and_the_file_over_the_default() -> None:
    config = ConfigFile(port=9000, demo_practitioners=7)
    assert up_options(ConfigFile(), **NOTHING).port == 8080
    assert up_options(config, **NOTHING).port == 9000
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
