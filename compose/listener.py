"""The listening end of a link: it refuses, takes connections, or gives no answer at all.

A firewall that drops packets lets a connect run into its time-out. A user-space proxy cannot drop a SYN, but it can make
the kernel do it: Linux drops every SYN to a socket whose queue of connections to accept is full. So `mute` stops
accepting, shrinks the queue to one place and fills that with a connection of its own. Merely not accepting would not do:
the kernel would complete the handshakes of the next 128 clients, and "connected" is what tells a hung host from a
dropped path (DESIGN section 4: unresponsive and unreachable).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from enum import Enum

_BACKLOG = 128
_PLUGS = 2
"""One fills the queue, whose least length is one; the other is one more in case a client was faster at leaving it."""
_RESET = struct.pack("ii", 1, 0)


class Answer(Enum):
    """What a connect gets."""

    REFUSE = "refuse"
    ACCEPT = "accept"
    NOTHING = "nothing"


class Listener:
    """One port of one address; `accepted` gets each new connection, non-blocking, and owns it.

    It starts refusing. The port is kept while it refuses, by a socket that is bound and does not listen. Raises OSError,
    as `answer` may, when the port is another's.
    """

    def __init__(self, host: str, port: int, accepted: Callable[[socket.socket], None]) -> None:
        self._address = (host, port)
        self._accepted = accepted
        self._now = Answer.REFUSE
        self._plugs: dict[object, socket.socket] = {}
        self._socket = _bound(self._address)

    @property
    def now(self) -> Answer:
        """What a connect gets now."""
        return self._now

    def answer(self, wanted: Answer) -> None:
        """Change it, at once."""
        if wanted is self._now:
            return
        loop = asyncio.get_running_loop()
        if self._now is Answer.ACCEPT:
            loop.remove_reader(self._socket)
        if wanted is Answer.REFUSE:
            self.close()
            self._socket = _bound(self._address)
        elif wanted is Answer.NOTHING:
            self._mute()
        else:
            self._unplug()
            self._socket.listen(_BACKLOG)
            loop.add_reader(self._socket, self._take)
        self._now = wanted

    def close(self) -> None:
        """Let go of the port; connections that nobody accepted are reset by the kernel."""
        if self._now is Answer.ACCEPT:
            asyncio.get_running_loop().remove_reader(self._socket)
        self._unplug(drain=False)
        self._socket.close()

    def _take(self) -> None:
        """Accept all that wait. A client that is gone again, or that finds no free descriptor, is not waited for."""
        with contextlib.suppress(OSError):
            while True:
                connection, address = self._socket.accept()
                if address in self._plugs:
                    connection.close()
                    continue
                connection.setblocking(False)
                self._accepted(connection)

    def _mute(self) -> None:
        self._socket.listen(0)
        self._take()
        for _ in range(_PLUGS):
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(self._address)
            self._plugs[plug.getsockname()] = plug

    def _unplug(self, *, drain: bool = True) -> None:
        if self._plugs and drain:
            self._take()
        for plug in self._plugs.values():
            plug.close()
        self._plugs.clear()


def is_listening(host: str, port: int) -> bool:
    """Somebody listens there. Asked by a bind that a listener refuses and a mere connection does not: nobody notices."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
        return False


def reset(connection: socket.socket) -> None:
    """End it with a RST in place of a FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def _bound(address: tuple[str, int]) -> socket.socket:
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made
