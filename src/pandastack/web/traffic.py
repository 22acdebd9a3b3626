"""What a sandbox may reach, and what it has reached, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from pandastack.model.book import Book
from pandastack.model.egress import CONNECTIONS, Egress, Internet, Receipt

SHOWN = 50
"""Destinations on a page: what was kept from it first, then those with most bytes."""


class Limit(Struct, frozen=True):
    """One part of a policy: what it is about, and its entries, as they were written."""

    what: str
    entries: tuple[str, ...]


class Reached(Struct, frozen=True):
    """A destination, and which part of all the bytes went there and came from there, 0 to 1."""

    receipt: Receipt
    share: float


class Traffic(Struct, frozen=True):
    """The destinations that are shown, and what is said of all of them."""

    shown: list[Reached]
    count: int
    denied: int
    bytes_out: int
    bytes_in: int


def limits(egress: Egress) -> list[Limit]:
    """A policy, part by part."""
    return [Limit(what, entries) for what, entries in _parts(egress) if entries]


def traffic(book: Book) -> Traffic:
    """What is written down of it, without a second look at the host."""
    receipts = book.receipts
    total = sum(map(_bytes, receipts)) or 1
    rows = sorted(receipts, key=lambda each: (each.allowed, -_bytes(each)))[:SHOWN]
    return Traffic(
        shown=[Reached(each, _bytes(each) / total) for each in rows],
        count=len(receipts) + book.dropped,
        denied=sum(not each.allowed for each in receipts),
        bytes_out=sum(each.bytes_out for each in receipts),
        bytes_in=sum(each.bytes_in for each in receipts),
    )


def _parts(egress: Egress) -> Iterator[tuple[str, tuple[str, ...]]]:
    if egress.internet is Internet.OFF:
        yield "Reaches", ("nothing at all",)
        return
    allowed = (*egress.allow_domains, *egress.allow_cidrs)
    yield "Reaches", allowed or ("everything but private networks",)
    yield "Never", (*egress.deny_domains, *egress.deny_cidrs)
    yield "Ports", tuple(map(str, egress.ports)) or ("all but those of mail",)
    if egress.bandwidth_mbps is not None:
        yield "Bandwidth", (f"{egress.bandwidth_mbps:g} Mbit/s",)
    if egress.max_connections != CONNECTIONS:
        yield "Connections", (f"{egress.max_connections} at a time",)


def _bytes(receipt: Receipt) -> int:
    return receipt.bytes_out + receipt.bytes_in
