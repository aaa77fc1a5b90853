"""One Postgres node and all that can be known about it: the agent, its probes and its actions.

Never decides anything about the cluster: it performs what the controller journalled. Start with `replication/model.py`
(the words), then `replication/agent.py`.
"""
