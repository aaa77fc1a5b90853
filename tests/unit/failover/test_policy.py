"""The policy's values may not contradict each other, and a settings file says which do."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from failover.core.model import Policy
from failover.policy import PolicyError, check_policy
from failover.settings import SettingsError, load

NODES = """
store_path = "locum.sqlite"
token_file = "token"
[nodes.a]
agent_url = "http://127.0.0.1:8091"
postgres_host = "127.0.0.1"
postgres_port = 8101
[nodes.b]
agent_url = "http://127.0.0.1:8092"
postgres_host = "127.0.0.1"
postgres_port = 8102
"""


def test_the_defaults_hold_together() -> None:
    check_policy(Policy())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"probe_interval_ms": 500}, "within 1000 ms"),
        ({"lease_ttl_ms": 200}, "heartbeats"),
        ({"standby_lost_ms": 250}, "several observations"),
        ({"retry_ms": 0}, "above zero"),
        ({"cold_start_ms": 900}, "cold start"),
    ],
)
def test_contradictions_are_refused_with_the_reason(change: dict[str, int], word: str) -> None:
    with pytest.raises(PolicyError, match=word):
        check_policy(msgspec.structs.replace(Policy(), **change))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (NODES + "[policy]\nlease_ttl_ms = 100\n", "lease_ttl_ms"),
        (NODES + "[policy]\nprobe_interval_ms = 'x'\n", "probe_interval_ms"),
        (NODES + "[policy]\nlease_ttl = 3000\n", "lease_ttl"),
        (NODES.split("[nodes.b]", maxsplit=1)[0], "exactly two"),
        ("not toml", "valid controller settings"),
    ],
)
def test_a_bad_file_is_a_clear_error(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "controller.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=word):
        load(path)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "controller.toml"
    path.write_text(NODES, encoding="utf-8")
    assert set(load(path).nodes) == {"a", "b"}
    assert load(path).policy == Policy()
