"""What every test shares: one async backend, and who may run beside whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

TOGETHER = ("tests/host/egress", "tests/network", "tests/vm")
"""Folders whose files do not run at the same time: they have servers on the same addresses, or look at all
networks or machines of this host.
"""


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side run files, never the tests of one; a folder of `TOGETHER` counts as one."""
    for item in items:
        file = item.path.relative_to(Path(__file__).parents[1]).as_posix()
        folders = [folder for folder in TOGETHER if file.startswith(f"{folder}/")]
        item.add_marker(pytest.mark.xdist_group(folders[0] if folders else file))
