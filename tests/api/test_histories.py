"""Random histories of all verbs on the process driver: states, lineage, listings and books, no contents."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings

from pandastack.host.agent import ensure_agent
from pandastack.testing.fixtures import CACHE
from pandastack.testing.process_driver import ProcessDriver
from tests.api.conftest import World, of_processes
from tests.api.histories import Histories

pytestmark = pytest.mark.timeout(300)


class OfProcesses(Histories):
    """Sandboxes that are guest agents as plain processes."""

    def open_world(self) -> World:
        agent = asyncio.run(ensure_agent(CACHE))
        return World(self.folder, of_processes(ProcessDriver(agent, insecure_no_isolation=True)))


OfProcesses.TestCase.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, database=None, derandomize=True
)
TestHistories = OfProcesses.TestCase
