"""Channels that are given no more than was taken of what they have sent.

The library gives a client its whole window anew with the first piece that somebody takes, whatever else
waits: behind a command that reads slowly all that a client has to say would pile up here.
"""

from __future__ import annotations

from asyncssh.channel import SSHChannel, SSHServerChannel, SSHTCPChannel


class Credit(SSHChannel[bytes]):
    """What waits and what a client may send are together never more than the channel's window."""

    _init_recv_window: int
    _waiting = 0
    """Bytes of the library's list of pieces, which may be many and small."""

    def _accept_data(self, data: bytes, datatype: int | None = None) -> None:
        """Called by asyncssh with what came."""
        pieces = len(self._recv_buf)
        super()._accept_data(data, datatype)
        if len(self._recv_buf) > pieces:
            self._waiting += len(data)

    def _deliver_data(self, data: bytes, datatype: int | None) -> None:
        """Called by asyncssh, which fills up to `_init_recv_window`. What is taken is no more in the list."""
        window = self._init_recv_window
        self._waiting = max(0, self._waiting - len(data)) if self._recv_buf else 0
        self._init_recv_window = window - self._waiting
        try:
            super()._deliver_data(data, datatype)
        finally:
            self._init_recv_window = window


class SessionChannel(Credit, SSHServerChannel[bytes]):
    """Of a session."""


class TunnelChannel(Credit, SSHTCPChannel[bytes]):
    """Of a forwarded connection."""
