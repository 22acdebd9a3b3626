"""What the programs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pandastack import Sandbox

PROGRAMS: dict[str, Callable[[str], None]] = {}


def program(function: Callable[[str], None]) -> Callable[[str], None]:
    PROGRAMS[function.__name__] = function
    return function


def make() -> Sandbox:
    return Sandbox.create(template="base", ttl_seconds=300)


E = TypeVar("E", bound=Exception)


def must_fail(kind: type[E], action: Callable[[], object]) -> E:
    try:
        given = action()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected; got {given!r}")
