"""One test for each trap of PostgreSQL that DESIGN marks with a dagger and that concerns what Locum does (docs/TRAPS.md).

Each says which sentence it stands for, and fails when Locum's rule against the trap is taken out.
"""
