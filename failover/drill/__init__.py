"""The drill engine, a black box: it judges Locum from outside, over HTTP, SQL and files (later issues)."""
