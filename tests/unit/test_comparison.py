"""What differs between two builds, as the builder's tool tells it."""

from __future__ import annotations

import pytest

from pandastack.model.comparison import (
    Comparison,
    Difference,
    How,
    Package,
    PackageChange,
    Result,
    changed_packages,
    compared,
)


@pytest.mark.parametrize(
    ("lines", "result"),
    [
        ([], Result.IDENTICAL),
        (["count\trest\t0", "count\ttrace\t0"], Result.IDENTICAL),
        (["count\trest\t0", "count\ttrace\t1", "trace\tadded\t/var/log/x"], Result.ALIKE),
        (["count\trest\t1", "count\ttrace\t1"], Result.DIFFERS),
    ],
)
def test_how_alike_they_are(lines: list[str], result: Result) -> None:
    assert compared(lines, "c", [], []).result is result


def test_paths_are_plain_again() -> None:
    found = compared(["count\trest\t1", r"rest" + "\tchanged\t" + r"/a\040\303\244\134x"], "c", [], [])
    assert found.differences == [Difference("/a ä\\x", How.CHANGED, trace=False)]


def test_another_package_is_another_root() -> None:
    before, now = [Package("deb", "a", "1"), Package("deb", "b", "1")], [Package("deb", "a", "2")]
    changes = [PackageChange("deb", "a", "1", "2"), PackageChange("deb", "b", "1", None)]
    assert changed_packages(before, now) == changes
    told = compared([], "c", before, now)
    assert told == Comparison(result=Result.DIFFERS, content="c", packages=changes)
    assert changed_packages([*now, Package("deb", "a", "1")], now) == [PackageChange("deb", "a", "1, 2", "2")]


@pytest.mark.parametrize("line", ["nonsense", "count\trest\tmany", "count\tother", "rest\tmoved\t/x"])
def test_what_no_tool_says_is_an_error(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        compared([line], "c", [], [])
