"""What of a sandbox's network is shown, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime

from pandastack.model.book import Book
from pandastack.model.egress import Egress, Internet, Receipt
from pandastack.web.traffic import SHOWN, limits, traffic

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def receipt(size: int, *, allowed: bool = True) -> Receipt:
    return Receipt("tls", f"n{size}.example", None, 443, "a rule", allowed, NOW, NOW, bytes_out=size)


def test_what_was_kept_from_it_comes_first_then_the_largest() -> None:
    seen = traffic(Book(earlier=(receipt(100), receipt(300), receipt(0, allowed=False)), dropped=7))
    assert [row.receipt.bytes_out for row in seen.shown] == [0, 300, 100]
    assert [row.share for row in seen.shown] == [0, 0.75, 0.25]
    assert (seen.count, seen.denied, seen.bytes_out, seen.bytes_in) == (10, 1, 400, 0)


def test_so_many_are_shown_and_all_are_counted() -> None:
    seen = traffic(Book(earlier=tuple(receipt(size) for size in range(SHOWN + 5))))
    assert len(seen.shown) == SHOWN and seen.count == SHOWN + 5
    assert traffic(Book()).shown == []


def test_a_policy_is_told_part_by_part() -> None:
    def told(egress: Egress) -> dict[str, str]:
        return {limit.what: " ".join(limit.entries) for limit in limits(egress)}

    assert told(Egress(Internet.OFF)) == {"Reaches": "nothing at all"}
    assert told(Egress()) == {"Reaches": "everything but private networks", "Ports": "all but those of mail"}
    strict = Egress(
        allow_domains=("a.example",),
        allow_cidrs=("198.51.100.0/24",),
        deny_domains=("b.a.example",),
        ports=(443, "8000-8010"),
        bandwidth_mbps=2.5,
        max_connections=10,
    )
    assert told(strict) == {
        "Reaches": "a.example 198.51.100.0/24",
        "Never": "b.a.example",
        "Ports": "443 8000-8010",
        "Bandwidth": "2.5 Mbit/s",
        "Connections": "10 at a time",
    }
