"""What every process says over HTTP: JSON bodies, the token check, server-sent events, process start and end.

Nothing here knows what the messages mean. Modules: http, sse, process, log, secrets; errors in errors.
"""
