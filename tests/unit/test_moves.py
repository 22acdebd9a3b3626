"""The table of moves: which states there are, how they are reached, and that the end is the end."""

from __future__ import annotations

from itertools import product

import pytest

from pandastack.model.sandbox import ALIVE, MOVES, SandboxState
from pandastack.store.sandboxes import SOURCES


def reachable(start: SandboxState) -> set[SandboxState]:
    seen, left = set(), [start]
    while left:
        state = left.pop()
        if state not in seen:
            seen.add(state)
            left.extend(MOVES[state])
    return seen


def test_every_state_has_a_row() -> None:
    assert MOVES.keys() == set(SandboxState)


def test_sources_are_the_moves_turned_round() -> None:
    for source, target in product(SandboxState, SandboxState):
        assert (target in MOVES[source]) == (source in SOURCES[target])


@pytest.mark.parametrize("state", SandboxState)
def test_whatever_happens_it_can_be_deleted(state: SandboxState) -> None:
    assert SandboxState.DELETED in reachable(state)


def test_nothing_comes_back_from_the_dead() -> None:
    """A failed one is not dead for good: its last image can be restored."""
    for state in (SandboxState.DELETED, SandboxState.STOPPING):
        assert reachable(state).isdisjoint({SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.CREATING})


def test_nothing_becomes_creating() -> None:
    assert SOURCES[SandboxState.CREATING] == frozenset()


def test_the_living_are_those_a_host_may_hold_something_for() -> None:
    assert (
        set(SandboxState)
        - {
            SandboxState.FAILED,
            SandboxState.DELETED,
            SandboxState.HIBERNATED,
        }
        == ALIVE
    )
