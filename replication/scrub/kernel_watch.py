"""The kernel's view of this node's disks as faults: error counters that grow, and its log, pushed as it is written."""

from __future__ import annotations

from replication.local_node import LocalNode
from replication.model import FaultKind
from replication.probes.kernel import Counter, devices_under, grown, read_counters
from replication.probes.kmsg import KernelLog
from replication.scrub.findings import SUSPICION, Findings
from replication.threads import in_thread
from replication.volumes import volumes


class KernelWatch:
    """`begin`, `look` now and then, `close`. A kernel error alone convicts nobody: which file it struck is not known."""

    def __init__(self, local: LocalNode, findings: Findings) -> None:
        self._local = local
        self._findings = findings
        self._devices: list[str] = []
        self._first: list[Counter] = []
        self._log: KernelLog | None = None

    async def begin(self) -> None:
        """Find the devices, and what they count now."""
        try:
            self._devices = await in_thread(self._find)
        except OSError:
            return
        self._first = await in_thread(read_counters, self._devices)
        if self._devices:
            self._log = KernelLog(set(self._devices), self._heard)

    async def look(self) -> None:
        """Counters that have grown since the agent began."""
        if not self._devices:
            return
        now = await in_thread(read_counters, self._devices)
        for found in grown(self._first, now):
            kind = FaultKind.STORAGE_ERROR
            self._findings.add(
                kind, found.sentence, what="kernel counter", value=str(found.counter), confidence=SUSPICION
            )

    def close(self) -> None:
        """Stop listening to the kernel's log."""
        if self._log is not None:
            self._log.close()

    def _find(self) -> list[str]:
        return list(dict.fromkeys(device for volume in volumes(self._local.node) for device in devices_under(volume)))

    def _heard(self, message: str) -> None:
        sentence = f"the kernel reports an error of its disk: {message}"
        self._findings.add(FaultKind.STORAGE_ERROR, sentence, what="kernel log", value=message, confidence=SUSPICION)
