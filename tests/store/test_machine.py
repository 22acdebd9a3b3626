"""Random histories of moves against the table: rows, quota and events always agree with it."""

from __future__ import annotations

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pandastack.model.account import Limits, Usage
from pandastack.model.sandbox import ALIVE, MOVES, SandboxState
from pandastack.store import accounts, migrations, sandboxes
from tests.store.conftest import sandbox

MOST = 3


class Histories(RuleBasedStateMachine):
    """A model of states in a dict, and the rows beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = sa.create_engine("sqlite://").connect()
        migrations.upgrade(self.connection)
        accounts.recount(self.connection, "w")
        self.states: dict[str, SandboxState] = {}

    def alive(self) -> int:
        return sum(state in ALIVE for state in self.states.values())

    @rule()
    def create(self) -> None:
        name = f"s{len(self.states)}"
        made = sandboxes.insert(self.connection, sandbox(name), Limits(MOST, None, None))
        assert made == (self.alive() < MOST)
        if made:
            self.states[name] = SandboxState.CREATING

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def move_legally(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.states)))
        if targets := sorted(MOVES[self.states[name]]):
            self._move(name, data.draw(st.sampled_from(targets)))

    @precondition(lambda self: self.states)
    @rule(data=st.data(), to=st.sampled_from(SandboxState))
    def move_anyhow(self, data: st.DataObject, to: SandboxState) -> None:
        self._move(data.draw(st.sampled_from(sorted(self.states))), to)

    def _move(self, name: str, to: SandboxState) -> None:
        before = self.states[name]
        moved = sandboxes.move(self.connection, name, to)
        assert (moved is not None) == (to in MOVES[before])
        if moved is not None:
            assert (moved[0].status, moved[1].status) == (before, to)
            self.states[name] = to

    @precondition(lambda self: self.states)
    @rule()
    def recount(self) -> None:
        accounts.recount(self.connection, "w")

    @invariant()
    def rows_are_the_model(self) -> None:
        rows = sandboxes.listing(self.connection, SandboxState)
        assert {row.id: row.status for row in rows} == self.states

    @invariant()
    def the_books_are_right(self) -> None:
        """Of the living; one that had failed lives again while it is being stopped."""
        alive = self.alive()
        assert accounts.usage(self.connection, "w") == Usage(alive, 2 * alive, 512 * alive)

    def teardown(self) -> None:
        self.connection.close()
        self.connection.engine.dispose()


Histories.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase
