"""The rebuild that copies only what differs: a base backup whose source is asked for hashes first (DESIGN section 6, rebuild)."""
