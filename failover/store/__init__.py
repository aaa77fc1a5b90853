"""The coordination store: an interface of a few verbs and its SQLite implementation."""
