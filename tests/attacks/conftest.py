"""Real machines, as those in `tests/vm`."""

from __future__ import annotations

from tests.vm.conftest import images, yard

__all__ = ["images", "yard"]
