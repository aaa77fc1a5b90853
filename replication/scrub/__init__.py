"""What an agent looks for on its own node without being asked: bad pages, indexes, maps, WAL, control data."""
