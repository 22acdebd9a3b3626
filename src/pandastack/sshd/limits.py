"""What visitors may take."""

from __future__ import annotations

from msgspec import Struct

WINDOW = 256 << 10
"""Bytes that a client may send on a channel before they are taken; about twice as many are kept of one that
does not take them.
"""


class Limits(Struct, frozen=True):
    """What visitors may take: seconds, and numbers."""

    login: float = 15.0
    """From the connection to a certificate that is good."""
    attempts: int = 6
    """Keys and certificates that one connection may show."""
    strangers: int = 256
    """Connections that have not shown one yet; with one more the oldest of them is cut."""
    strangers_of_one_address: int = 64
    of_one_address: int = 100
    of_one_key: int = 64
    """Of one API key, from wherever."""
    connections: int = 1024
    channels: int = 64
    """Sessions and forwarded connections that one connection may have at a time."""
    look: float = 5.0
    """How soon connections end that nobody would be let in for any more."""
    alive: float = 30.0
    """Between two questions whether a silent client is still there; behind the third it is taken for gone."""
    stranger_bytes: int = 128 << 10
    """So much may come before somebody has shown who it is."""
    unstarted_bytes: int = 32 << 20
    """So much may come while a session waits to be told what it is for."""
    untaken: int = 256 << 10
    """Bytes that wait to be taken by a client: from then on nothing more is read for it."""
    untaken_most: int = 8 << 20
    """Bytes that wait to be taken: a client that asks for still more, and never listens, is cut off."""
