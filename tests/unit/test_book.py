"""What is added up of a sandbox's receipts: exact over lives and processes, and bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from pandastack.model.book import KEPT, Book, Sighting
from pandastack.model.egress import Receipt

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def receipt(size: int, address: str = "198.51.100.1", rule: str = "open", *, seconds: int = 0) -> Receipt:
    at = NOW + timedelta(seconds=seconds)
    return Receipt("tcp", None, address, 443, rule, allowed=True, first_at=at, last_at=at, bytes_out=size)


def sizes(book: Book) -> list[int]:
    return [each.bytes_out for each in book.receipts]


def test_what_is_told_again_is_not_added() -> None:
    book = Book().noted(Sighting("a", (receipt(10),)))
    assert book.noted(Sighting("a", (receipt(10, seconds=9),))) == book
    assert sizes(book.noted(Sighting("a", (receipt(15, seconds=9),)))) == [15]


def test_another_life_begins_anew_and_is_added() -> None:
    book = Book().noted(Sighting("a", (receipt(10),))).noted(Sighting("b"))
    assert sizes(book) == [10]
    assert sizes(book.noted(Sighting("b", (receipt(30),)))) == [40]


def test_machines_whose_process_ids_repeat_are_told_apart() -> None:
    """And one that ran on while its server was renewed, which had noted no moment, is one and the same."""
    older = Book().noted(Sighting("3.1234", (receipt(10),)))
    same = older.noted(Sighting("3.1234.999", (receipt(15),)))
    assert sizes(same) == [15] and same.life == "3.1234.999"
    assert sizes(same.noted(Sighting("3.1234.1000", (receipt(4),)))) == [19]
    assert sizes(older.noted(Sighting("3.12345.999", (receipt(4),)))) == [14]
    assert sizes(older.noted(Sighting("13.1234.999", (receipt(4),)))) == [14]
    assert sizes(Book().noted(Sighting("3.1234.999", (receipt(4),)))) == [4]


def test_the_two_places_begin_anew_at_different_times() -> None:
    named = replace(receipt(3), protocol="tls", name="a.example")
    book = Book().noted(Sighting("a", (receipt(10),), "1", (named,)))
    assert book.noted(Sighting("a", (receipt(10),))) == book, "nobody counts by name just now"
    after = book.noted(Sighting("a", (receipt(12),), "2", (named,)))
    assert sorted(sizes(after)) == [6, 12]


def test_a_rule_and_a_name_are_those_of_when_it_was_seen() -> None:
    book = Book().noted(Sighting("a", (replace(receipt(10), name="a.example"),)))
    same = book.noted(Sighting("a", (receipt(10, rule="an earlier policy", seconds=5),)))
    assert same == book
    (grown,) = book.noted(Sighting("a", (receipt(11, rule="other", seconds=5),))).receipts
    assert (grown.name, grown.rule, grown.first_at) == ("a.example", "other", NOW)


def test_of_too_many_the_last_are_kept_and_the_others_counted() -> None:
    book = Book()
    for life in range(3):
        many = [receipt(1, f"198.51.{life}.{turn}", seconds=life) for turn in range(KEPT)]
        book = book.noted(Sighting(f"life {life}", tuple(many)))
    assert (len(book.receipts), book.dropped) == (2 * KEPT, KEPT)
    assert {each.address.rsplit(".", 1)[0] for each in book.receipts if each.address} == {
        "198.51.1",
        "198.51.2",
    }
