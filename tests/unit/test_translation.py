"""How much translated code a machine keeps."""

from __future__ import annotations

import pytest

from pandastack.host.groups import OVERHEAD_BYTES, Limits
from pandastack.host.translation import translated_mb

SIZES = [(128, 128), (512, 128), (640, 352), (1024, 1024), (65_536, 1024)]


@pytest.mark.parametrize(("memory", "code"), SIZES)
def test_large_machines_keep_more_and_may(memory: int, code: int) -> None:
    assert translated_mb(memory) == code
    assert Limits(1, memory << 20).most_bytes == (memory + code - 128 << 20) + OVERHEAD_BYTES
