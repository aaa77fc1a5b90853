"""Every kind of decision as data: when it is taken, what is done, what comes next.

`decide` refuses a kind that is not here, and docs/STATE_MACHINE.md is generated from this table
(`python -m failover.core.transitions`), so the page cannot drift from the code.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One kind of decision. `step`: the stage of cluster life it belongs to; `then`: kinds that usually follow."""

    kind: str
    step: str
    when: str
    action: str
    then: tuple[str, ...]


TABLE: tuple[Row, ...] = (
    Row("steady", "any", "no rule wants anything", "none", ()),
    Row("start.named", "first start", "the store names no primary", "journal the first node as primary, term 1", ("start.initdb",)),
    Row("start.initdb", "first start", "the store holds no system identifier and the directory is empty", "initdb", ("start.closed",)),
    Row("start.wait_for_peer", "start", "the primary is stopped, and its eligible peer does not answer", "journal; alarm after a while", ("start.compare", "no_primary", "start.without_peer")),
    Row("start.without_peer", "start", "after cold_start_ms, and the lone rule proves the primary whole", "journal: the peer is not eligible", ("start.closed",)),
    Row("start.wal_lost", "start", "the comparison found that the primary lacks WAL of its eligible peer", "journal term + 1, then promote the peer", ("failover.wait", "failover.retry", "failover.promoted")),
    Row("start.wait_for_standby", "start", "replicating, and the named standby does not stream yet", "journal; alarm after cold_start_ms", ("standby.start", "start.open", "no_primary")),
    Row("start.relax", "start", "a name in the list, nothing eligible, and an operator accepted the loss", "set_names to nothing", ("start.open_alone",)),
    Row("start.read_end", "start", "the primary is stopped and nobody is to be compared with", "compare_wal without a peer: where its WAL ends", ("start.closed",)),
    Row("start.check_receipts", "start", "closed, nobody to be compared with, and its WAL reaches all that was seen of it", "check_receipts, which the controller fills with those of every server", ("start.proved_alone", "no_primary")),
    Row("start.proved_alone", "start", "every acknowledged write is on it", "journal: nothing else is eligible, it may open alone", ("start.relax", "start.open_alone")),
    Row("start.compare_after_all", "start", "not open, without a comparison that holds, and the eligible peer answers", "fence", ("start.compare",)),
    Row("start.compare", "start", "the primary is stopped, its peer is eligible but not promotable", "compare_wal", ("start.closed", "start.wal_lost", "start.compare_again")),
    Row("start.compare_again", "start", "the peer could not tell where its WAL ends", "none; again after a delay", ("start.compare",)),
    Row("start.closed", "start", "the comparison found the WAL equal, or nothing is eligible", "start_primary with the list of names", ("start.schema", "start.replicating", "start.open_alone", "no_primary")),
    Row("start.schema", "start", "closed, and the schema was never applied", "apply_schema", ("start.open_alone",)),
    Row("start.replicating", "start", "closed, with a name in the list", "set_stage replicating", ("standby.start",)),
    Row("start.open", "start", "replicating, and the named standby streams", "set_stage open, after a synchronous probe commit", ("start.opened",)),
    Row("start.open_alone", "start", "closed, nothing eligible, and the lone rule held", "set_stage open", ("start.opened",)),
    Row("start.opened", "start", "open for the first time, or an alarm is over", "journal", ("standby.rebuild_needed", "steady")),
    Row("no_primary", "start", "the primary cannot be started or opened without a person", "alarm with the next step", ("command.open_alone",)),
    Row("failover.begin", "failover", "a verdict on the primary and a promotable standby", "journal term + 1, then promote the standby and fence the former", ("failover.wait", "failover.retry", "failover.promoted")),
    Row("failover.before_record", "failover", "the recovery of an eligible standby broke off over what the primary wrote upon a wrong page", "journal term + 1, then start the standby up to before that record and promote it, fence the former", ("failover.wait", "failover.retry", "failover.promoted")),
    Row("failover.read_places", "failover", "the primary is damaged, and the candidate has not read the same places", "read_places on the candidate", ("failover.begin",)),
    Row("incident.receipts", "any", "an incident is open, and every server has compared its receipts in this term", "write down what they found", ("incident.closed",)),
    Row("incident.opened", "any", "the primary is damaged and nothing may replace it now, or a standby is damaged", "open the incident", ("failover.read_places", "failover.begin")),
    Row("incident.cause_found", "any", "a node that the record calls dead said what it died of", "write the better verdict down", ()),
    Row("failover.wait", "failover", "the candidate is not open yet", "none", ("failover.promoted", "failover.retry")),
    Row("failover.retry", "failover", "an earlier action is settled and the candidate is still in recovery", "promote (or start) again, fence again", ("failover.wait", "failover.promoted")),
    Row("failover.stuck", "failover", "the candidate died while being promoted, and its WAL ends below where it ended", "alarm with the next step", ("command.go_on",)),
    Row("command.go_on", "command", "an operator accepts what a stuck candidate has lost", "journal", ("failover.retry",)),
    Row("failover.promoted", "failover", "the candidate is open in the journalled term", "journal primary, timeline and fork; publish the topology", ("standby.fence", "standby.rebuild", "standby.start")),
    Row("incident.closed", "any", "the primary is open and carries no fault that would replace it, a standby is promotable, and the receipts show that nothing is missing", "close the incident", ("steady",)),
    Row("switchover.begin", "switchover", "an operator asks and the candidate is promotable", "checkpoint on the primary", ("switchover.wait", "switchover.drain")),
    Row("switchover.wait", "switchover", "the step under way has not ended", "none", ()),
    Row("switchover.drain", "switchover", "the checkpoint ended", "servers hold new writes", ("switchover.stop",)),
    Row("switchover.stop", "switchover", "servers are drained, or the deadline passed", "stop the primary", ("switchover.stopped", "switchover.to_failover")),
    Row("switchover.stopped", "switchover", "the primary stopped cleanly", "wait for the shutdown record on the candidate", ("switchover.promote", "switchover.abandoned")),
    Row("switchover.promote", "switchover", "the candidate has replayed the shutdown record and its receiver is gone", "journal term + 1, then promote", ("failover.wait", "failover.promoted")),
    Row("switchover.to_failover", "switchover", "the primary did not stop cleanly", "end the switchover", ("failover.begin", "start.compare")),
    Row("switchover.abandoned", "switchover", "a step passed its deadline", "end the switchover; the former goes on", ("start.compare", "steady")),
    Row("standby.lost", "standby", "lost, and the list is empty already", "journal: not eligible", ("standby.start",)),
    Row("standby.shrink", "standby", "lost for standby_lost_ms while the primary is proved well", "journal: not eligible, then relax", ("standby.start", "standby.rebuild_needed")),
    Row("primary.reindex", "standby", "the primary carries damage of content or indexes, and nothing may take its place", "reindex the tables that it lies in", ("incident.receipts", "standby.rebuild")),
    Row("primary.drop_maps", "standby", "a visibility map was wrong on the primary before this one, or is on this one and nothing may take its place", "throw it away; WAL carries that to the standby", ("standby.rebuild", "standby.start")),
    Row("standby.rebuild_needed", "standby", "its data directory is not whole, its slot is lost, it carries an integrity fault, or it never streams", "journal", ("standby.slot", "standby.rebuild")),
    Row("standby.disqualified", "standby", "it must be rebuilt and is still eligible", "journal: not eligible", ("standby.shrink",)),
    Row("standby.fence", "standby", "it must be rebuilt and still runs", "fence", ("standby.slot", "standby.rebuild")),
    Row("standby.slot", "standby", "its slot is missing, lost or unreserved", "ensure_slot on the primary", ("standby.rebuild", "standby.start")),
    Row("standby.wait", "standby", "the primary is busy", "none", ()),
    Row("standby.rebuild", "standby", "stopped, slot there, list empty", "rebuild", ("standby.start",)),
    Row("standby.rename", "standby", "eligible and about to start again", "set_names to the new name, in one write", ("standby.start",)),
    Row("standby.start", "standby", "stopped, with a data directory", "start_standby under a new name, after proving its history", ("standby.certify", "standby.grow")),
    Row("standby.restart", "standby", "it runs under another role or name, or does not stream for stream_deadline_ms", "fence", ("standby.start",)),
    Row("standby.awaited", "standby", "it runs and does not stream yet", "journal", ("standby.streams", "standby.restart")),
    Row("standby.streams", "standby", "it streams", "journal", ("standby.certify", "standby.grow")),
    Row("standby.certify", "standby", "rebuilt, and it streams", "certify", ("standby.grow",)),
    Row("standby.grow", "standby", "it streams the primary's timeline, near, and is not proved", "grow", ("steady", "standby.shrink")),
    Row("command.refused", "command", "a wrong term, or not in this state", "none", ()),
    Row("command.open_alone", "command", "an operator accepts the loss of a lone primary", "journal", ("start.open_alone",)),
    Row("command.fence", "command", "an operator fences", "fence, held", ("failover.begin", "standby.shrink")),
    Row("command.unfence", "command", "an operator lifts the fence", "unfence", ("standby.start", "start.compare")),
    Row("fence.again", "command", "the message of an operator's fence was lost", "fence, held", ("failover.begin", "standby.shrink")),
    Row("fence.lift_again", "command", "the message that lifts it was lost", "unfence", ("standby.start", "start.compare")),
    Row("command.rebuild", "command", "an operator asks for a rebuild", "journal", ("standby.disqualified", "standby.fence")),
    Row("command.pause", "command", "an operator pauses", "journal", ()),
    Row("command.resume", "command", "an operator resumes", "journal", ()),
    Row("command.close_incident", "command", "an operator closes the open incident with a note", "journal", ("steady",)),
)  # fmt: skip

KINDS = frozenset(row.kind for row in TABLE)


def document() -> str:
    """docs/STATE_MACHINE.md, whole."""
    lines = [
        "# The state machine",
        "",
        "Generated from `failover/core/transitions.py`; a test keeps it true. `decide` tries its rules in order and takes at",
        "most one decision a tick, one row of this table, with at most one action a node. The new state is stored before",
        "any action is sent, and what an action did is learnt only from the next observation.",
        "",
        "| decision | part | when | what is done | usually followed by |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row.kind}` | {row.step} | {row.when} | {row.action} | {', '.join(f'`{kind}`' for kind in row.then)} |"
        for row in TABLE
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
