"""One-line secret files: read with a check of their mode, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from replication.wire.errors import SecretError


def read_secret(path: Path) -> str:
    """The one line of a secret file. Raises SecretError when it is missing, empty or open to others."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SecretError(f"cannot read the secret {path}: {error.strerror}; `locum up` makes it") from error
    if mode & 0o077:
        raise SecretError(f"{path} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}")
    if not text or "\n" in text:
        raise SecretError(f"{path} must hold exactly one line")
    return text


def write_private(path: Path, text: str | bytes) -> None:
    """Write a file of mode 0600 atomically (temporary file, fsync, rename, fsync of the directory)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
