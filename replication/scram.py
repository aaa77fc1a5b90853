"""SCRAM secrets as PostgreSQL stores them, made here so that the password itself never travels (RFC 5802, RFC 7677)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

ITERATIONS = 64
"""The passwords are 256 random bits, which no number of iterations makes harder to guess; each one costs every new
connection time, and after a promotion all connections are new."""


def scram_secret(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """`SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`: what `ALTER ROLE … PASSWORD` takes as it is
    (src/common/scram-common.c, scram_build_secret). `password` must be ASCII, so that SASLprep changes nothing."""
    if not password.isascii():
        raise ValueError("a generated password is ASCII")
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_b64(salt)}${_b64(stored_key)}:{_b64(server_key)}"


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
