"""Ids and references: made by the server, never by a sequence of the database, and checked strictly when they come back.

A proposal's id carries its slot's id and nothing else, so that it means the same after a failover and a restart.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid

from server.errors import Refusal

ANONYMOUS = "anonymous"
_PROPOSAL = "prop-"
_FHIR_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_KEY_CHARS_MAX = 255
_NOISE_BYTES = 4_096


class _Noise:
    """Random bytes of the kernel, fetched many at a time: a call for each id would cost more than the id."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next so many."""
        if self._at + count > len(self._bytes):
            self._bytes, self._at = os.urandom(_NOISE_BYTES), 0
        self._at += count
        return self._bytes[self._at - count : self._at]


_NOISE = _Noise()


def uuid7(now_ms: int | None = None) -> uuid.UUID:
    """A time-ordered id (RFC 9562, section 5.7): 48 bits of Unix time in ms, 74 random bits."""
    stamp = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    noise = int.from_bytes(_NOISE.take(10), "big")
    value = (stamp & (1 << 48) - 1) << 80 | 0x7 << 76 | (noise >> 64 & 0xFFF) << 64 | 0b10 << 62 | noise & (1 << 62) - 1
    return uuid.UUID(int=value)


def proposal_id(slot: uuid.UUID) -> str:
    """The id of the proposed Appointment for a slot."""
    return f"{_PROPOSAL}{slot}"


def parse_appointment(text: str) -> tuple[uuid.UUID | None, uuid.UUID | None]:
    """(appointment, None) for an appointment's id, (None, slot) for a proposal's. Raises Refusal 404 for any other."""
    wanted = text.removeprefix(_PROPOSAL)
    found = parse_uuid(wanted)
    if found is None:
        raise Refusal(404, "not-found", f"there is no Appointment/{text[:80]}", detail="appointment-unknown")
    return (None, found) if text.startswith(_PROPOSAL) else (found, None)


def parse_uuid(text: str) -> uuid.UUID | None:
    """Only the canonical spelling: a resource has exactly one id."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    return found if str(found) == text else None


def reference_id(reference: str, kind: str) -> str:
    """`dr-01` from `Practitioner/dr-01`, or from an absolute URL that ends so. Raises Refusal 400 for anything else."""
    parts = reference.rsplit("/", 2)
    found = parts[-1]
    if len(parts) < 2 or parts[-2] != kind or not _FHIR_ID.fullmatch(found):
        raise Refusal(400, "value", f"expected a reference such as {kind}/ID, got {reference[:80]!r}")
    return found


def check_id(text: str) -> str:
    """An id as FHIR allows it. Raises Refusal 400."""
    if not _FHIR_ID.fullmatch(text):
        raise Refusal(400, "value", f"{text[:80]!r} is not an id: 1 to 64 letters, digits, '-' and '.'")
    return text


def kept_key(caller: str, header: str | None) -> str:
    """The key under which a write is kept: nobody meets another caller's. Without a header, one of our own. Raises Refusal 400."""
    if header is None:
        return f"internal {uuid.uuid4()}"
    key = parse_key(header)
    return key if caller == ANONYMOUS else f"{hashlib.sha256(caller.encode()).hexdigest()[:32]} {key}"


def parse_key(header: str) -> str:
    """An Idempotency-Key, quoted as in the IETF draft (draft-ietf-httpapi-idempotency-key-header) or bare.

    Raises Refusal 400 when it is empty, longer than 255 characters, or not printable ASCII.
    """
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 0 < len(key) <= _KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        raise Refusal(400, "value", "Idempotency-Key must be 1 to 255 printable ASCII characters, quoted or bare")
    return key
