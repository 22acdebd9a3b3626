"""What every test shares: one async backend."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kvm` has drivers tested that need hardware virtualization; `scripts/test --kvm` makes sure of it."""
    parser.addoption("--kvm", action="store_true", help="test drivers that need hardware virtualization")


@pytest.fixture
def anyio_backend() -> str:
    """Everything here runs on asyncio."""
    return "asyncio"
