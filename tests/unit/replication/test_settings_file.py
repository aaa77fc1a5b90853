"""The text of postgresql.conf and pg_hba.conf, by role and stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.installation import Installation
from replication.model import Role, Stage
from replication.node import Node
from replication.settings import AgentSettings, Peer, SettingsError
from replication.settings_file import (
    FIXED,
    Written,
    check_overrides,
    format_names,
    parse_names,
    quote,
    render_conf,
    render_hba,
    render_passfile,
)


def node(version: tuple[int, int] = (18, 6), **changed: Any) -> Node:
    fields: dict[str, Any] = {
        "name": "b",
        "data_dir": Path("/disk/b/pgdata"),
        "state_dir": Path("/state/b"),
        "secrets_dir": Path("/secrets"),
        "schema_file": Path("/schema.sql"),
        "postgres_port": 5555,
        "peers": {"a": Peer("http://127.0.0.1:1", "127.0.0.1", 5554)},
        **changed,
    }
    return Node(AgentSettings(**fields), Installation(Path("/bin"), version), Path("/state/b/socket"))


def conf(written: Written, of: Node | None = None) -> dict[str, str]:
    lines = render_conf(of or node(), written).splitlines()[1:]
    return {key: value[1:-1] for key, _, value in (line.partition(" = ") for line in lines)}


def standby(**changed: Any) -> Written:
    fields: dict[str, Any] = {
        "role": Role.STANDBY, "term": 4, "revision": 9, "standby_name": "b_g7", "upstream": "a", "slot": "locum_b",
        **changed,
    }  # fmt: skip
    return Written(**fields)


def primary(stage: Stage = Stage.OPEN, names: tuple[str, ...] = ("a_g2",)) -> Written:
    return Written(role=Role.PRIMARY, term=4, revision=9, stage=stage, names=names)


def test_a_primary_waits_for_its_names_and_follows_nobody() -> None:
    settings = conf(primary())
    assert settings["synchronous_standby_names"] == '"a_g2"'
    assert settings["primary_conninfo"] == settings["primary_slot_name"] == ""
    assert settings["locum.term"] == "4"


def test_a_standby_never_has_synchronous_names() -> None:
    settings = conf(standby(names=("c_g1",)))
    assert settings["synchronous_standby_names"] == ""
    assert "application_name='b_g7'" in settings["primary_conninfo"].replace("''", "'")
    assert settings["primary_slot_name"] == "locum_b"
    assert "password" not in settings["primary_conninfo"]


def test_a_standby_without_an_upstream_has_no_conninfo_and_no_slot() -> None:
    settings = conf(standby(upstream=None))
    assert settings["primary_conninfo"] == settings["primary_slot_name"] == ""


def test_an_unknown_upstream_is_refused() -> None:
    with pytest.raises(SettingsError, match="'z'"):
        render_conf(node(), standby(upstream="z"))


def test_the_cluster_name_is_never_a_name_that_counts() -> None:
    assert conf(standby())["cluster_name"] == "locum_b"


@pytest.mark.parametrize("written", [primary(), standby(), primary(Stage.CLOSED, ())])
def test_what_the_safety_rules_stand_on_is_always_set(written: Written) -> None:
    settings = conf(written)
    assert {key: settings[key] for key in FIXED} == FIXED
    assert settings["restart_after_crash"] == "off"
    assert settings["wal_retrieve_retry_interval"] == "100ms"


def test_limits_are_the_same_for_both_roles() -> None:
    limits = ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions")
    for key in (*limits, "max_locks_per_transaction"):
        assert conf(primary())[key] == conf(standby())[key]


def test_an_old_version_gets_no_setting_that_it_does_not_know() -> None:
    assert "event_triggers" not in conf(primary(), node(version=(15, 18)))


def test_hba_of_a_closed_primary_admits_only_its_agent() -> None:
    lines = render_hba(node(), primary(Stage.CLOSED)).splitlines()[1:]
    assert lines == ["local all postgres scram-sha-256"]


def test_hba_of_a_replicating_primary_admits_the_standby_too() -> None:
    text = render_hba(node(), primary(Stage.REPLICATING))
    assert "host replication locum_replication 127.0.0.1/32 scram-sha-256" in text
    assert "locum_server" not in text


@pytest.mark.parametrize("written", [primary(), standby()])
def test_hba_of_an_open_node(written: Written) -> None:
    text = render_hba(node(), written)
    assert "host locum locum_server 127.0.0.1/32 scram-sha-256" in text
    assert "host all postgres 127.0.0.1/32 scram-sha-256" in text
    assert "trust" not in text


def test_away_from_loopback_the_superuser_still_comes_only_over_it() -> None:
    text = render_hba(node(postgres_host="10.0.0.5"), primary())
    assert "host locum locum_server all scram-sha-256" in text
    assert "postgres all" not in text
    assert "host all postgres 127.0.0.1/32 scram-sha-256" in text


@pytest.mark.parametrize(
    "key",
    ["fsync", "FSYNC", "synchronous_standby_names", "primary_conninfo", "hba_file", "restore_command", "locum.term",
     "zero_damaged_pages", "recovery_target_time", "listen_addresses", "include_dir"],
)  # fmt: skip
def test_settings_that_the_rules_stand_on_cannot_be_overridden(key: str) -> None:
    with pytest.raises(SettingsError, match=key.lower()):
        check_overrides({key: "x"})


def test_other_settings_can_be_overridden() -> None:
    assert conf(primary(), node(postgres={"Work_Mem": "64MB"}))["work_mem"] == "64MB"
    assert conf(primary(), node(postgres={"shared_buffers": "1GB"}))["shared_buffers"] == "1GB"


@pytest.mark.parametrize(("key", "value"), [("work_mem", "1MB'\nfsync = 'off"), ("work mem", "1"), ("", "1")])
def test_a_setting_cannot_smuggle_in_another(key: str, value: str) -> None:
    with pytest.raises(SettingsError):
        check_overrides({key: value})


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=3))
def test_names_come_back_as_they_were_written(names: list[str]) -> None:
    assert parse_names(format_names(tuple(names))) == tuple(names)


def test_names_as_a_person_would_write_them() -> None:
    assert parse_names("") == ()
    assert parse_names("b_g1") == ("b_g1",)
    assert parse_names("ANY 1 (b_g1, c_g1)") == ("b_g1", "c_g1")


def test_quoting() -> None:
    assert quote("it's a \\") == "'it''s a \\\\'"
    assert render_passfile("a:b\\") == "*:*:*:locum_replication:a\\:b\\\\\n"


def test_a_standby_that_ends_before_a_record_waits_there_to_be_promoted() -> None:
    lines = render_conf(node(), standby(upstream=None, stop_before_lsn=0x3A5F2C8)).splitlines()
    assert "recovery_target_lsn = '0/3A5F2C8'" in lines
    assert "recovery_target_inclusive = 'off'" in lines
    assert "recovery_target_action = 'pause'" in lines
    assert not any(line.startswith("recovery_target_lsn") for line in render_conf(node(), standby()).splitlines())
