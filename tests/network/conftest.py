"""Machines in a world of the test's own, where they can attack what they like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pandastack.host.app import LocalHost, open_host
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.real import small_host
from tests.network.world import HOST, INTERNET, ROUTER, echo, lay
from tests.vm.conftest import images, quiet, state, yard

__all__ = ["images", "state", "yard"]


@pytest.fixture
def ground(leak_check: LeakCheck) -> Iterator[None]:
    """A host's network and an internet, both with a program that echoes on every address."""
    with lay(), echo(INTERNET), echo(HOST):
        yield


@pytest.fixture
async def host(images: None, state: Path, ground: None) -> AsyncIterator[LocalHost]:
    """A host there, whose machines end with the test."""
    config = small_host(state, name_servers=(f"{ROUTER}:53",))
    async with open_host(config, quiet) as host:
        try:
            yield host
        finally:
            await host.end_all()
