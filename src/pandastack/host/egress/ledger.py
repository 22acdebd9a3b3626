"""What a sandbox reached and what was kept from it, added up by destination and rule."""

from __future__ import annotations

from collections import Counter, OrderedDict
from datetime import datetime

from pandastack.model.clock import Clock
from pandastack.model.egress import Receipt

NAMES = 1024
"""Most addresses of which the name is known."""

DNS = "dns"
OTHERS = "others"
"""The protocol under which connections are added up when there are too many to tell apart."""

Key = tuple[str, str | None, str | None, int, str, bool]
"""Protocol, name, address, port, rule, whether it was allowed."""


class Tally:
    """The figures of one destination while they grow."""

    def __init__(self, now: datetime) -> None:
        self.bytes_out = 0
        self.bytes_in = 0
        self.connections = 0
        self.first_at = self.last_at = now


class Ledger:
    """The receipts of one slot: at most `limit` of what was allowed, of what was denied, and of questions, so
    that none can be hidden by many of another kind.
    """

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._tallies: dict[Key, Tally] = {}
        self._kinds: Counter[tuple[bool, bool]] = Counter()
        self._names: OrderedDict[str, str] = OrderedDict()

    def tally(self, key: Key) -> Tally:
        """The figures of this destination, one connection more."""
        now = self._clock.now()
        if key not in self._tallies:
            kind = key[0] == DNS, key[5]
            self._kinds[kind] += 1
            if self._kinds[kind] > self._limit:
                key = (DNS if kind[0] else OTHERS, None, None, 0, "too many to tell apart", key[5])
        found = self._tallies.setdefault(key, Tally(now))
        found.connections += 1
        found.last_at = now
        return found

    def touch(self, tally: Tally) -> None:
        """Something went through just now."""
        tally.last_at = self._clock.now()

    def resolved(self, name: str, addresses: list[str]) -> None:
        """The resolver answered so."""
        for address in addresses:
            self._names[address] = name
            self._names.move_to_end(address)
        while len(self._names) > NAMES:
            self._names.popitem(last=False)

    def receipts(self) -> tuple[Receipt, ...]:
        """All of them, as they are now."""
        return tuple(
            Receipt(
                protocol=protocol,
                name=name,
                address=address,
                port=port,
                rule=rule,
                allowed=allowed,
                first_at=tally.first_at,
                last_at=tally.last_at,
                bytes_out=tally.bytes_out,
                bytes_in=tally.bytes_in,
                connections=tally.connections,
            )
            for (protocol, name, address, port, rule, allowed), tally in self._tallies.items()
        )

    def names(self) -> dict[str, str]:
        """Which name each address was resolved from last."""
        return dict(self._names)
