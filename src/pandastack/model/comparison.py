"""What differs between two builds of the same inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Result(StrEnum):
    """How alike two root file systems are: no file differs; only files differ that tell of when they were
    made, such as logs and caches; or others do.
    """

    IDENTICAL = "identical"
    ALIKE = "alike"
    DIFFERS = "differs"


class How(StrEnum):
    """What was found of a path, seen from the earlier build."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Package(Struct, frozen=True):
    """A package that is installed in an image: `kind` is deb, apk or pypi, or os for the distribution."""

    kind: str
    name: str
    version: str


class Difference(Struct, frozen=True):
    """A path that is not as it was; `trace`: where every build leaves traces of when it was done."""

    path: str
    how: How
    trace: bool


class PackageChange(Struct, frozen=True):
    """A package that is not in the version that it was in; None where it was not at all."""

    kind: str
    name: str
    was: str | None
    now: str | None


class Comparison(Struct, frozen=True, kw_only=True):
    """What a second build came to. Of the differences the first hundred of each kind are told."""

    result: Result
    content: str
    """The hash over all files that the second build has."""
    paths: int = 0
    """How many paths differ beside traces."""
    traces: int = 0
    differences: list[Difference] = []
    packages: list[PackageChange] = []


def compared(
    lines: Iterable[str], content: str, before: Sequence[Package], now: Sequence[Package]
) -> Comparison:
    """Read what the tool `compare` prints: see images/builder."""
    counts = {"rest": 0, "trace": 0}
    differences = []
    for first, second, third in (line.split("\t", 2) for line in lines):
        if first == "count":
            counts[second] = int(third)
        else:
            differences.append(Difference(_plain(third), How(second), first == "trace"))
    packages = changed_packages(before, now)
    result = Result.IDENTICAL
    if counts["rest"] or packages:
        result = Result.DIFFERS
    elif counts["trace"]:
        result = Result.ALIKE
    return Comparison(
        result=result,
        content=content,
        paths=counts["rest"],
        traces=counts["trace"],
        differences=differences,
        packages=packages,
    )


def changed_packages(before: Iterable[Package], now: Iterable[Package]) -> list[PackageChange]:
    """Those that differ, by kind and name. One that is there more than once differs as a whole."""
    was, is_now = _versions(before), _versions(now)
    return [
        PackageChange(kind, name, was.get((kind, name)), is_now.get((kind, name)))
        for kind, name in sorted(was.keys() | is_now.keys())
        if was.get((kind, name)) != is_now.get((kind, name))
    ]


def _versions(packages: Iterable[Package]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], set[str]] = {}
    for each in packages:
        found.setdefault((each.kind, each.name), set()).add(each.version)
    return {key: ", ".join(sorted(versions)) for key, versions in found.items()}


def _plain(path: str) -> str:
    """Without the escapes of the listing."""
    raw = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), path.encode())
    return raw.decode(errors="replace")
