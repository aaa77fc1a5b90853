"""Putting the parts together: the `locum` command line and `locum up`, everything on one machine."""
