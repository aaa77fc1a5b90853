"""The evidence of an incident as one archive: its record, and what each agent has kept of what it found."""

from __future__ import annotations

import asyncio
import io
import tarfile
import time

import msgspec

from failover.incidents import Incident
from replication.client import AgentClient
from replication.wire.errors import WireError

BYTES_MAX = 64 * 1024 * 1024
"""Of one node; what an agent keeps is a small part of it (replication/evidence.py)."""


async def bundle(incident: Incident, agents: dict[str, AgentClient]) -> bytes:
    """A tar.gz with `incident.json` and a folder for each node. A node that does not answer is told by a file that says so."""
    parts = await asyncio.gather(*(_of(name, agent) for name, agent in agents.items()))
    text = msgspec.json.format(msgspec.json.encode(incident), indent=1)
    return await asyncio.to_thread(_packed, f"incident-{incident.id}", text, dict(parts))


async def _of(name: str, agent: AgentClient) -> tuple[str, bytes | str]:
    try:
        found = await agent.evidence()
    except WireError as error:
        return name, f"{error}\n"
    return name, found if len(found) <= BYTES_MAX else f"{len(found)} bytes are too many\n"


def _packed(folder: str, incident: bytes, parts: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        _add(archive, f"{folder}/incident.json", incident)
        for name, part in parts.items():
            if isinstance(part, str):
                _add(archive, f"{folder}/{name}/not-available.txt", part.encode())
                continue
            with tarfile.open(fileobj=io.BytesIO(part)) as own:
                for member in own.getmembers():
                    file = own.extractfile(member)
                    if file is not None and "/" not in member.name:
                        _add(archive, f"{folder}/{name}/{member.name}", file.read())
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(data))
