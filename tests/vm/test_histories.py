"""Random histories of all verbs on real machines: their disks and their memory are the model's."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from hypothesis import settings

from pandastack.host.app import LocalHost, open_host
from pandastack.testing.real import small_host
from tests.api.conftest import World
from tests.api.histories import Histories
from tests.vm.conftest import quiet

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300), pytest.mark.usefixtures("images")]

CYCLES = 3
"""The oldest complaint of the field: what was written behind the second sleep is lost."""


def real_host(state: Path) -> AbstractAsyncContextManager[LocalHost]:
    """One that runs virtual machines, with the user's cache of images."""
    return open_host(small_host(state), quiet)


class OfMachines(Histories):
    """Sandboxes that are virtual machines."""

    holds_files = True

    def open_world(self) -> World:
        return World(self.folder, real_host)

    def finale(self) -> None:
        """One sleeps again and again, called and by the clock, and is written to each time it is awake."""
        if self.room() > 0:
            self.create("sleeps")
        name, box = list(self.boxes.items())[-1]
        for cycle in range(CYCLES):
            self.go_on(name)
            self.put(name, f"cycle-{cycle}", str(cycle))
            if cycle % 2 or box.leash != "sleeps":
                self.put_to_sleep(name)
            else:
                self.time_passes()
            self.the_world_is_the_model()
            self.look_into(name)
        super().finale()


OfMachines.TestCase.settings = settings(
    max_examples=3, stateful_step_count=20, deadline=None, database=None, derandomize=True
)
TestHistories = OfMachines.TestCase
