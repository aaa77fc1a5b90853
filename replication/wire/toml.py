"""Settings files: TOML into a typed Struct, with paths as `Path`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def decode(content: bytes, type_: type[T]) -> T:
    """Raises msgspec.DecodeError, or msgspec.ValidationError with the key that does not fit."""
    return msgspec.toml.decode(content, type=type_, dec_hook=_path)


def _path(type_: type[Any], value: Any) -> Any:
    if type_ is Path and isinstance(value, str):
        return Path(value)
    raise TypeError("Expected a path as a string")
