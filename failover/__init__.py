"""Deciding and acting: the pure core, the controller that drives it, the store and the incidents.

Never touches a disk of a node. Start with `failover/core/decide.py`, then `failover/controller.py`.
"""
