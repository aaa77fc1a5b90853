"""A broken build: the server's commits wait for nobody, not even for their own disk."""

import server.link

server.link._SESSION["synchronous_commit"] = "off"
