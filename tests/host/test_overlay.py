"""The empty layer over a root disk, as QEMU itself reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastack.errors import InvalidRequest
from pandastack.host.overlay import CLUSTER, overlay
from pandastack.host.qemu_install import find_qemu
from pandastack.host.tool import run_tool
from pandastack.testing.fixtures import CACHE

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]


@pytest.fixture
def image_tool() -> tuple[Path, dict[str, str]]:
    """The qemu-img of the QEMU that runs the machines, as set-up has it."""
    qemu = find_qemu(CACHE)
    assert qemu is not None, "run scripts/setup first"
    assert qemu.image_tool is not None
    return qemu.image_tool, qemu.env


@pytest.mark.parametrize("size_mb", [1, 512, 513, 4096, 6144, 5_000_000])
async def test_qemu_takes_an_overlay_for_whole(
    tmp_path: Path, image_tool: tuple[Path, dict[str, str]], size_mb: int
) -> None:
    program, env = image_tool
    base, layer = tmp_path / "base", tmp_path / "layer"
    with base.open("wb") as file:
        file.truncate(size_mb << 20)
    layer.write_bytes(overlay(size_mb << 20, base))
    await run_tool([program, "check", "-f", "qcow2", layer], timeout=30, settings=env)
    said = await run_tool([program, "info", "--output=json", layer], timeout=30, settings=env)
    assert f'"virtual-size": {size_mb << 20}' in said
    assert f'"full-backing-filename": "{base}"' in said
    assert '"backing-filename-format": "raw"' in said


async def test_what_is_written_to_an_overlay_stays_in_it(
    tmp_path: Path, image_tool: tuple[Path, dict[str, str]]
) -> None:
    program, env = image_tool
    base, layer, whole = tmp_path / "base", tmp_path / "layer", tmp_path / "whole"
    base.write_bytes(b"A" * (4 << 20))
    layer.write_bytes(overlay(4 << 20, base))
    source = tmp_path / "source"
    source.write_bytes(b"B" * (1 << 20))
    await run_tool(
        [program, "convert", "-n", "-f", "raw", "-O", "qcow2", "--target-is-zero", source, layer],
        timeout=30,
        settings=env,
    )
    await run_tool([program, "check", layer], timeout=30, settings=env)
    await run_tool([program, "convert", "-O", "raw", layer, whole], timeout=30, settings=env)
    assert whole.read_bytes() == b"B" * (1 << 20) + b"A" * (3 << 20)
    assert base.read_bytes() == b"A" * (4 << 20)


def test_an_overlay_is_small_and_always_the_same(tmp_path: Path) -> None:
    assert overlay(4 << 30, tmp_path / "base") == overlay(4 << 30, tmp_path / "base")
    assert len(overlay(4 << 30, tmp_path / "base")) < 4 * CLUSTER


@pytest.mark.parametrize(("size", "path"), [(0, "/a"), (-512, "/a"), (513, "/a"), (512, "/" + "a" * 1023)])
def test_there_is_no_overlay_of_such_a_size_or_path(size: int, path: str) -> None:
    with pytest.raises(InvalidRequest):
        overlay(size, Path(path))
