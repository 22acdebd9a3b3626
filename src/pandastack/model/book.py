"""What a sandbox has reached in all of its life: added up from what its host tells, whatever ends in between.

A host counts in two places, which begin anew at different times: the kernel of a machine's network with each
machine, and the process that knows names with each process. What one tells takes the place of what it told
before. Once it has begun anew, what it told last is added to what came earlier.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from pandastack.model.egress import Receipt

KEPT = 1000
"""Most receipts of each part that are kept: of more, those that were seen last."""

Key = tuple[str, str | None, str | None, int, str, bool]
Place = tuple[str, str | None, int, bool]


class Sighting(Struct, frozen=True):
    """What a host knows of a machine's network now. A name that is empty tells that nobody counts there."""

    life: str = ""
    """Names the machine and its network, `slot.process.moment it began`; another one has counts of its own.
    Before there was the moment, a machine that runs on was noted without it.
    """
    by_address: tuple[Receipt, ...] = ()
    """By the kernel, since that machine came up."""
    process: str = ""
    """Names the process that knows names, and since when it serves this network."""
    by_name: tuple[Receipt, ...] = ()

    @property
    def receipts(self) -> list[Receipt]:
        """All of them."""
        return [*self.by_name, *self.by_address]


class Book(Struct, frozen=True):
    """All that is known of one sandbox."""

    earlier: tuple[Receipt, ...] = ()
    dropped: int = 0
    """How many destinations are not told any more, because there were too many."""
    life: str = ""
    by_address: tuple[Receipt, ...] = ()
    process: str = ""
    by_name: tuple[Receipt, ...] = ()

    @property
    def receipts(self) -> list[Receipt]:
        """All, each destination under each rule once; what was let through comes first."""
        told = _added([*self.earlier, *self.by_name, *self.by_address])
        return sorted(told, key=lambda each: (not each.allowed, each.protocol, each.address or "", each.port))

    def noted(self, seen: Sighting) -> Book:
        """With what a host tells now. The same again changes nothing."""
        book = self
        if seen.life and seen.life.rpartition(".")[0] == book.life:
            book = replace(book, life=seen.life)
        if seen.life and seen.life != book.life:
            book = _kept(replace(book, life=seen.life, by_address=()), book.by_address)
        if seen.process and seen.process != book.process:
            book = _kept(replace(book, process=seen.process, by_name=()), book.by_name)
        by_address = book.by_address if not seen.life else _known(seen.by_address, book.by_address)
        by_name = book.by_name if not seen.process else seen.by_name
        return replace(book, by_address=by_address, by_name=by_name)


def _known(now: Iterable[Receipt], before: Iterable[Receipt]) -> tuple[Receipt, ...]:
    """What the kernel tells. One that has not grown was seen last, and decided by the rule, when it had."""
    known = {_place(each): each for each in before}
    return _last([_grown(each, known.get(_place(each))) for each in now])


def _grown(now: Receipt, before: Receipt | None) -> Receipt:
    if before is None:
        return now
    first = min(now.first_at, before.first_at)
    if _size(now) <= _size(before):
        return replace(before, name=before.name or now.name)
    return replace(now, name=now.name or before.name, first_at=first)


def _kept(book: Book, ended: Iterable[Receipt]) -> Book:
    """With what will not grow any more among what came earlier."""
    told = _added([*book.earlier, *ended])
    earlier = _last(told)
    return replace(book, earlier=earlier, dropped=book.dropped + len(told) - len(earlier))


def _added(receipts: Iterable[Receipt]) -> list[Receipt]:
    found: dict[Key, Receipt] = {}
    for each in receipts:
        before = found.get(key := _key(each))
        found[key] = each if before is None else _sum(before, each)
    return [*found.values()]


def _sum(one: Receipt, other: Receipt) -> Receipt:
    return replace(
        one,
        first_at=min(one.first_at, other.first_at),
        last_at=max(one.last_at, other.last_at),
        bytes_out=one.bytes_out + other.bytes_out,
        bytes_in=one.bytes_in + other.bytes_in,
        connections=one.connections + other.connections,
    )


def _last(receipts: list[Receipt]) -> tuple[Receipt, ...]:
    if len(receipts) <= KEPT:
        return tuple(receipts)
    return tuple(sorted(receipts, key=_last_at)[-KEPT:])


def _last_at(receipt: Receipt) -> datetime:
    return receipt.last_at


def _size(receipt: Receipt) -> int:
    return receipt.bytes_out + receipt.bytes_in + receipt.connections


def _key(receipt: Receipt) -> Key:
    return (
        receipt.protocol,
        receipt.name,
        receipt.address,
        receipt.port,
        receipt.rule,
        receipt.allowed,
    )


def _place(receipt: Receipt) -> Place:
    return receipt.protocol, receipt.address, receipt.port, receipt.allowed
