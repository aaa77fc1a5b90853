"""Threads that libfuse made, and that call into Python again and again.

For each call from a thread that is not its own, ctypes makes a Python thread state and throws it away afterwards, which
costs as much as a whole operation (Doc/c-api/init.rst, PyGILState_Ensure). One more Ensure without its Release keeps it.
"""

from __future__ import annotations

import ctypes
import threading

_here = threading.local()
_ensure = ctypes.pythonapi.PyGILState_Ensure
_ensure.restype = ctypes.c_int


def stay() -> None:
    """Let this thread keep its Python state until it ends."""
    if not hasattr(_here, "stays"):
        _ensure()
        _here.stays = True
