"""The cache: what is in use is never removed, what nobody needs goes whole."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pandastack.host.paths import Cache
from pandastack.host.prune import Kind, entries, prune
from pandastack.host.publish import locked, new_directory, point
from pandastack.host.uses import Uses, entry_of

DAY = 86400.0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def made(path: Path, *, days: float) -> Path:
    """An entry with a file, which was used last so many days ago."""
    with new_directory(path) as draft:
        (draft / "content").write_bytes(b"x" * 100_000)
    return aged(path, days=days)


def aged(path: Path, *, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def removed(cache: Cache, *, keep_days: float = 7, template: str | None = None) -> set[str]:
    """The digests of what `prune` removed."""
    gone = prune(cache, now=time.time(), keep_days=keep_days, template=template)
    assert not any(Path(entry.path).exists() for entry in gone)
    assert not list(cache.trash.glob("*"))
    return {entry.digest for entry in gone}


def test_of_each_template_the_last_used_stays_and_so_does_what_is_young(cache: Cache) -> None:
    for name in ("base", "other"):
        for digest, days in (("new", 20), ("old", 30), ("older", 40)):
            made(cache.image(name, digest), days=days)
    made(cache.snapshots / "base" / "now", days=0)
    made(cache.snapshots / "base" / "young", days=6)
    made(cache.snapshots / "base" / "past", days=8)
    assert removed(cache, template="base") == {"old", "older", "past"}
    assert removed(cache) == {"old", "older"}
    assert {Path(each.path).name for each in entries(cache)} == {"new", "now", "young"}


def test_what_was_used_within_the_hour_stays_in_any_case(cache: Cache) -> None:
    made(cache.image("base", "new"), days=0)
    made(cache.image("base", "fresh"), days=0.9 / 24)
    made(cache.image("base", "stale"), days=1.1 / 24)
    assert removed(cache, keep_days=0) == {"stale"}


def test_links_to_removed_images_go_and_others_stay(cache: Cache) -> None:
    for recipe, days in (("a", 1), ("b", 30)):
        point(cache.image_of_recipe("base", recipe), made(cache.image("base", f"of-{recipe}"), days=days))
    assert removed(cache) == {"of-b"}
    assert [link.name for link in (cache.images("base") / "recipes").iterdir()] == ["a"]


def test_the_current_kernel_stays_and_packages_need_not(cache: Cache) -> None:
    for version, days in (("1", 30), ("2", 20), ("3", 40)):
        made(cache.kernel(version), days=days)
    point(cache.current_kernel, cache.kernel("1"))
    made(cache.downloads, days=30)
    (cache.root / "initramfs").mkdir()
    for digest, days in (("i", 9), ("j", 10)):
        cache.initramfs(digest).write_bytes(b"cpio")
        aged(cache.initramfs(digest), days=days)
    gone = prune(cache, now=time.time(), keep_days=7)
    assert {(each.kind, each.name or each.digest) for each in gone} == {
        (Kind.KERNEL, "3"),
        (Kind.INITRAMFS, "j"),
        (Kind.PACKAGES, "downloads"),
    }


def test_a_dry_run_removes_nothing(cache: Cache) -> None:
    made(cache.image("base", "new"), days=1)
    made(cache.image("base", "old"), days=30)
    (told,) = prune(cache, now=time.time(), keep_days=7, dry_run=True)
    assert (told.digest, told.superseded, told.in_use_by) == ("old", True, [])
    assert told.size_bytes >= 100_000
    assert cache.image("base", "old").exists()


def test_what_this_program_has_taken_is_kept_and_dated(cache: Cache) -> None:
    made(cache.image("base", "new"), days=1)
    old = made(cache.image("base", "old"), days=30)
    with closing(Uses(cache)) as uses:
        uses.take(old / "content", Path("/etc/passwd"), cache.image("base", "gone") / "content")
        aged(old, days=30)
        assert removed(cache) == set()
        (shown,) = [each for each in entries(cache) if each.digest == "old"]
        assert str(os.getpid()) in shown.in_use_by[0]
    assert time.time() - old.stat().st_mtime < 60
    aged(old, days=30)
    aged(cache.image("base", "new"), days=1)
    assert removed(cache) == {"old"}


HOLD = """
import sys
from pathlib import Path
from pandastack.host.paths import Cache
from pandastack.host.uses import Uses
uses = Uses(Cache(Path(sys.argv[1])))
uses.take(Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""
MAP = """
import mmap, sys
file = open(sys.argv[2] + "/content", "r+b")
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
file.close()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_program(script: str, cache: Cache, entry: Path) -> Iterator[None]:
    """Uses the entry while the block runs, and is then killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(cache.root), str(entry)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("script", [HOLD, MAP], ids=["a server", "a machine"])
def test_what_another_program_uses_is_kept_until_it_dies(cache: Cache, script: str) -> None:
    made(cache.snapshots / "base" / "new", days=1)
    old = made(cache.snapshots / "base" / "old", days=30)
    with another_program(script, cache, old):
        aged(old, days=30)
        assert removed(cache) == set()
    assert removed(cache) == {"old"}


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "lock"), [("images", "image-base"), ("snapshots", "bake-base")])
async def test_nothing_of_a_template_goes_while_it_is_made(cache: Cache, kind: str, lock: str) -> None:
    made(cache.root / kind / "base" / "new", days=1)
    made(cache.root / kind / "base" / "old", days=30)
    async with locked(cache.lock(lock)):
        assert await asyncio.to_thread(removed, cache) == set()
    assert await asyncio.to_thread(removed, cache) == {"old"}


PRUNE = """
import sys, time
from pathlib import Path
from pandastack.host.paths import Cache
from pandastack.host.prune import prune
def report(event, arguments):
    if event == "shutil.rmtree":
        print("renamed", flush=True)
        sys.stdin.read()
sys.addaudithook(report)
prune(Cache(Path(sys.argv[1])), now=time.time(), keep_days=7)
"""


def test_a_killed_prune_leaves_whole_entries_and_the_next_one_cleans_up(cache: Cache) -> None:
    made(cache.image("base", "new"), days=1)
    old = made(cache.image("base", "old"), days=30)
    process = subprocess.Popen(
        [sys.executable, "-c", PRUNE, str(cache.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"renamed\n"
        process.kill()
    assert not old.exists()
    assert list(cache.trash.glob("*/old/content"))
    assert removed(cache) == set()


def test_drafts_and_workspaces_are_no_entries(cache: Cache) -> None:
    made(cache.image("base", "new"), days=1)
    aged(made(cache.images("base") / ".old.draft", days=30), days=30)
    aged(made(cache.images("base") / "build.xyz", days=30), days=30)
    assert [each.digest for each in entries(cache)] == ["new"]
    assert removed(cache) == set()


def test_the_entry_of_a_path(cache: Cache) -> None:
    image = made(cache.image("base", "d"), days=1)
    assert entry_of(cache, image / "root.ext4") == image
    assert entry_of(cache, image) == image
    assert entry_of(cache, image.parent) is None
    assert entry_of(cache, cache.root / "locks" / "x") is None
    assert entry_of(cache, Path("/usr/bin/env")) is None


def test_an_empty_cache_has_nothing(cache: Cache) -> None:
    assert entries(cache) == []
    assert removed(cache) == set()
