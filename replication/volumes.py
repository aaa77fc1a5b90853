"""The volumes that a node stands on, as the disk probe meets them."""

from __future__ import annotations

import os
from pathlib import Path

from replication.node import Node


def volumes(node: Node) -> list[Path]:
    """Directories to probe, one a file system: beside the data directory (initdb wants that one empty), in it when it is
    a mount point of its own, and pg_wal's when that lies elsewhere. Blocks on the disk."""
    beside = node.data_dir.parent
    found = [beside]
    if node.data_dir.exists() and any(node.data_dir.iterdir()):
        wal = Path(os.path.realpath(node.data_dir / "pg_wal"))
        found += [path for path in (node.data_dir, wal) if path.exists()]
    by_device = {path.stat().st_dev: path for path in reversed(found)}
    return list(reversed(by_device.values()))
