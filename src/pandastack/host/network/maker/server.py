"""Obeys the orders of the host, one at a time."""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress

import msgspec

from pandastack.errors import MachineError
from pandastack.host.network import namespace
from pandastack.host.network.maker.library import Library
from pandastack.host.network.maker.orders import WORDS_LIMIT, Answer, Order

REST_SECONDS = 0.05
"""When there was no order for so long, the sockets of the last are closed, which waits for nothing then."""
MOST_OPEN = 64


class Server:
    """The maker, from the moment on when it has the library."""

    def __init__(self, control: socket.socket, library: Library) -> None:
        self._control = control
        self._library = library
        self._open: deque[socket.socket] = deque()

    def run(self) -> None:
        """Until the host closes the control socket. The next order comes when this one is answered."""
        with suppress(ConnectionError), self._control.makefile("rb") as lines:
            say(self._control, Answer())
            while line := lines.readline():
                say(self._control, self._answer(msgspec.json.decode(line, type=Order)))
                if not select.select([self._control], [], [], REST_SECONDS)[0]:
                    self._settle()

    def _answer(self, order: Order) -> Answer:
        try:
            if order.ways is not None:
                order.ways.lay(order.space)
            refused = self._ruled(order)
            if refused is None and order.ways is not None:
                order.ways.open()
        except MachineError as error:
            return Answer(error=error.message)
        return Answer(refused=refused)

    def _ruled(self, order: Order) -> str | None:
        """None, or the words of `nft`."""
        with namespace.inside(order.space):
            done = self._library.run(order.text)
            if done.asked is not None:
                self._keep(done.asked)
            if done.refused is not None:
                return done.refused[:WORDS_LIMIT]
            if order.settled:
                self._settle()
            if order.forget:
                self._keep(namespace.forget_connections())
        return None

    def _keep(self, asked: socket.socket) -> None:
        """Open for a while: to close it now would be to wait."""
        if len(self._open) == MOST_OPEN:
            self._open.popleft().close()
        self._open.append(asked)

    def _settle(self) -> None:
        """Wait until nothing is left of what was removed."""
        while self._open:
            self._open.popleft().close()


def say(control: socket.socket, answer: Answer) -> None:
    """Send it."""
    control.sendall(msgspec.json.encode(answer) + b"\n")
