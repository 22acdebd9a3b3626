"""A host that runs real machines, with a state directory of the test's own and the user's cache of images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from pandastack.host.app import LocalHost, open_host
from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.tool import run_tool
from pandastack.testing.fixtures import LeakCheck
from pandastack.testing.real import small_host
from tests.api.test_kills import PROGRAM
from tests.vm.firecracker_kit import firecracker_kit
from tests.vm.yard import Yard


def quiet(line: str, fraction: float | None) -> None:
    """Nobody watches the progress of a test."""


class OpenHost(Protocol):
    """Opens the host of this test's state directory; again and again, as a restarted server does."""

    def __call__(self) -> AbstractAsyncContextManager[LocalHost]: ...


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build and bake what is missing before any test's clock runs."""
    asyncio.run(_bake(tmp_path_factory.mktemp("bake")))


async def _bake(state: Path) -> None:
    async with open_host(small_host(state), quiet) as host:
        await host.bake("base")


@pytest.fixture
def state(tmp_path: Path, leak_check: LeakCheck) -> Path:
    folder = tmp_path / "state"
    leak_check.expect_empty(folder / "v")
    return folder


@pytest.fixture
def open_state(state: Path, images: None) -> OpenHost:
    return lambda: open_host(small_host(state), quiet)


@pytest.fixture
async def host(open_state: OpenHost) -> AsyncIterator[LocalHost]:
    """A host whose machines end with the test."""
    async with open_state() as host:
        try:
            yield host
        finally:
            await host.end_all()


@pytest.fixture
async def yard(leak_check: LeakCheck, tmp_path: Path, images: None) -> AsyncIterator[Yard]:
    """A yard; a test that succeeds has its last server take everything along."""
    yard = Yard(tmp_path)
    leak_check.expect_empty(yard.state / "v")
    yield yard
    if any((yard.state / "v").iterdir()):
        await run_tool([PROGRAM, "down", "--state", yard.state], timeout=60)


@pytest.fixture(scope="session")
def kvm_device() -> Path:
    """The device; the one thing whose absence lets a test be skipped, and said."""
    device = Path("/dev/kvm")
    if not device.exists():
        pytest.skip("this machine has no /dev/kvm: Firecracker was not tested")
    return device


@pytest.fixture(scope="session")
def firecracker(kvm_device: Path) -> FirecrackerInstall:
    """A real Firecracker with its jailer."""
    return firecracker_kit()
