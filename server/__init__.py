"""Patient-facing HTTP: the FHIR scheduling API, the booking rules, hold-and-replay.

Knows only the topology record, never a node: start with `server/app.py`.
"""
