"""A faulty disk: a FUSE pass-through file system for one node's data directory, steered live over a unix socket.

`python -m failover.drill.faultfs --backing DIR --mount DIR --socket FILE` serves it until SIGTERM. Read `spec.py` for what
it can do to a file, `operations.py` for where. A fault lives in the memory of that process only, and ends with it.
Data that was not fsynced lies in memory too (`overlay.py`), so that losing it is real.
"""
