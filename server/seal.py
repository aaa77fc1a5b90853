"""The seal key and what it encrypts: rows in receipts, which lie on a disk that backups and people may reach.

AES-256-GCM (NIST SP 800-38D) with a random nonce for each row; the id is authenticated with it.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.errors import ServerError

_NONCE_BYTES = 12


def row_key(secret: str) -> str:
    """The key of the rows' seals, as hexadecimal digits: another one than that of the receipts, since the database gets to see it."""
    return hashlib.sha256(b"locum row seal " + secret.encode()).hexdigest()


class SealBroken(ServerError):
    """A row in a receipt is not what was written, or was written with another key."""


class Seal:
    """`secret`: the text of the seal key's file."""

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(hashlib.sha256(b"locum seal " + secret.encode()).digest())

    def close(self, row: bytes, name: str) -> bytes:
        """The row, encrypted for the receipt of this id."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, row, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """The row again. Raises SealBroken."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except InvalidTag as error:
            raise SealBroken(f"the row in the receipt of {name} does not fit its seal") from error
