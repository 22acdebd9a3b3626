"""Root disks: the same folder gives the same bytes, whole and sparse; and what names an image."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pandastack.errors import BuildFailed, NoSpace
from pandastack.host.builder import content_digest, input_digest
from pandastack.host.ext4 import make_disk, used_inodes
from pandastack.host.manifest import load_recipe
from pandastack.host.packages import Package
from pandastack.host.sources import local_source
from pandastack.host.tool import run_tool

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leak_check")]

TIME = 1_600_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A little of everything that a file system holds."""
    root = tmp_path / "tree"
    (root / "etc" / "deep").mkdir(parents=True)
    (root / "etc" / "deep" / "file").write_bytes(os.urandom(100_000))
    (root / "etc" / "empty").touch()
    (root / "etc" / "link").symlink_to("deep/file")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    os.utime(root / "program", (TIME, TIME))
    return root


async def test_the_same_folder_gives_the_same_bytes(tmp_path: Path, tree: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tree, copy, symlinks=True)  # other inodes, other change times, the same content
    one, two = tmp_path / "one", tmp_path / "two"
    await make_disk(tree, one, size_mb=64, seed="seed", time=TIME)
    await make_disk(copy, two, size_mb=64, seed="seed", time=TIME)
    assert one.read_bytes() == two.read_bytes()
    assert content_digest(one) == content_digest(two)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "one", "tree", "two"]


async def test_another_seed_or_content_gives_other_bytes(tmp_path: Path, tree: Path) -> None:
    digests = set()
    for seed, mode in (("seed", 0o755), ("other", 0o755), ("seed", 0o700)):
        (tree / "program").chmod(mode)
        await make_disk(tree, tmp_path / "disk", size_mb=64, seed=seed, time=TIME)
        digests.add(content_digest(tmp_path / "disk"))
    assert len(digests) == 3


async def test_a_disk_is_whole_sparse_and_holds_the_folder(tmp_path: Path, tree: Path) -> None:
    disk = tmp_path / "disk"
    await make_disk(tree, disk, size_mb=512, seed="seed", time=TIME)
    assert disk.stat().st_size == 512 << 20
    assert disk.stat().st_blocks * 512 < 40 << 20
    await run_tool(["e2fsck", "-f", "-n", disk], timeout=60)
    await run_tool(["debugfs", "-R", f"dump /etc/deep/file {tmp_path / 'out'}", disk], timeout=60)
    assert (tmp_path / "out").read_bytes() == (tree / "etc" / "deep" / "file").read_bytes()
    said = await run_tool(["debugfs", "-R", "stat /program", disk], timeout=60)
    assert "Mode:  0755" in said
    assert said.count(f"0x{TIME:08x}") == 4, "access, change, modification and creation"


async def test_a_folder_larger_than_the_disk_is_refused(tmp_path: Path, tree: Path) -> None:
    (tree / "large").write_bytes(os.urandom(40 << 20))
    with pytest.raises((BuildFailed, NoSpace)):
        await make_disk(tree, tmp_path / "disk", size_mb=32, seed="seed", time=TIME)


def test_inodes_in_use_are_what_no_group_has_free() -> None:
    said = (
        "Inode count:              24\nGroup 0:\n  Free inodes: 12-16\nGroup 1:\n  Free inodes: 18, 20-24\n"
    )
    assert used_inodes(said) == [*range(2, 12), 17, 19]


def test_the_digest_of_an_image_knows_its_packages(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "template.toml").write_text('label = "1"\ndescription = ""\nsuite = "bookworm"\n')
    recipe = load_recipe("one", tmp_path)
    a, b = Package("a_1_amd64.deb", "aa", 1, "u"), Package("b_1_amd64.deb", "bb", 1, "u")
    newer = Package("b_2_amd64.deb", "cc", 1, "u")
    mirror = [local_source(tmp_path)]
    assert input_digest(recipe, [a, b], mirror) == input_digest(recipe, [b, a], mirror)
    assert input_digest(recipe, [a, b], mirror) != input_digest(recipe, [a, newer], mirror)
    assert input_digest(recipe, [a, b], mirror) != input_digest(recipe, [a, b], [])
