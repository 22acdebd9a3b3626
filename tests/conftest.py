"""What every test shares: one async backend, and who may run beside whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]  # it has no types
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # the same

TOGETHER = ("tests/host/egress", "tests/network", "tests/vm")
"""Folders whose files do not run at the same time: they have servers on the same addresses, or look at all
networks or machines of this host.
"""
LONGEST = ("tests/vm", "tests/network")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kvm` has drivers tested that need hardware virtualization; `scripts/test --kvm` makes sure of it."""
    parser.addoption("--kvm", action="store_true", help="test drivers that need hardware virtualization")


@pytest.fixture
def anyio_backend() -> str:
    """Everything here runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def no_control_groups_are_left() -> Iterator[None]:
    """Those of this program and of what it runs, empty by then; a server removes its own."""
    yield
    for name in ("pandastack-test", f"pandastack-test-{os.getpid()}"):
        for group in [*Path("/sys/fs/cgroup").rglob(name)]:
            with suppress(OSError):
                group.rmdir()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: _line(item.nodeid) not in LONGEST)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lines:
    """Who says what runs on which side."""
    return Lines(config, log)


class Lines(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed throughout
    """Side by side run files, never the tests of one; a folder of `TOGETHER` counts as one."""

    def _split_scope(self, nodeid: str) -> str:
        return _line(nodeid)


def _line(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)
