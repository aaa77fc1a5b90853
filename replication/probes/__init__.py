"""Probes of one node, each a small module with one job: process, sql, disk."""
