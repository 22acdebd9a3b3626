"""What the host and the maker say to each other: one order, one answer, a line each."""

from __future__ import annotations

from msgspec import Struct

from pandastack.host.network.ways import Ways

ANSWER_LIMIT = 1 << 18
"""Bytes; more than WORDS_LIMIT of what has to be escaped. An order has the length of its rules."""
WORDS_LIMIT = 1 << 14
"""Of what `nft` says about a mistake, and more than one."""


class Order(Struct, frozen=True):
    """Have the rules of `text` kept in the namespace of this name, all of them or none.

    With `ways` those are laid first, and the host's end is opened behind the rules. With `forget` all
    connections are forgotten behind them; `settled`: before that, no packet is under way any more that was
    judged by what the rules took away, and could make a connection known again.
    """

    space: str
    text: str
    ways: Ways | None = None
    forget: bool = False
    settled: bool = False


class Answer(Struct, frozen=True):
    """To an order, and once without one when the maker is ready: `refused` has the words of `nft`, which then
    has changed nothing; `error` is all else that went wrong.
    """

    refused: str | None = None
    error: str | None = None
