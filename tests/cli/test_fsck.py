"""`pandastack fsck`: what is damaged is told and, when that is wanted, removed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pandastack.cli.state import held

from ..host.kept import flip, make_base, make_kept
from .conftest import Run


async def _make(state: Path) -> None:
    base = await make_base(state, "key")
    for name in ("good", "bad"):
        await make_kept(state, name, base)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two snapshots over one base."""
    asyncio.run(_make(tmp_path / "state"))
    return tmp_path / "state"


def rows(text: str) -> dict[str, list[str]]:
    return {row.split()[1]: row.split() for row in text.splitlines()[1:]}


def test_it_tells_what_is_well_and_what_is_not(alone: Run, state: Path) -> None:
    told = rows(alone("fsck", "--state", str(state)).stdout)
    assert {name: (row[0], row[2], row[5]) for name, row in told.items()} == {
        "key": ("base", "-", "ok"),
        "good": ("snapshot", "box", "ok"),
        "bad": ("snapshot", "box", "ok"),
    }
    flip(state / "s" / "bad" / "pages", 5 << 20)
    done = alone("fsck", "--state", str(state), status=1)
    assert "pages: chunk 1 (bytes 4194304 to 8388607) is damaged" in done.stdout
    found = json.loads(alone("--json", "fsck", "--state", str(state), status=1).stdout)
    (bad,) = [each for each in found if each["state"] == "damaged"]
    assert (bad["id"], bad["file"], bad["chunk"]) == ("bad", "pages", 1)


def test_what_is_damaged_is_removed_when_that_is_wanted(alone: Run, state: Path) -> None:
    flip(state / "s" / "bad" / "pages", 5 << 20)
    words = ("fsck", "--state", str(state), "--delete-damaged")
    alone(*words, status=1)  # nobody says yes
    assert (state / "s" / "bad").exists()
    with held(state):
        assert "A server runs" in alone(*words, "--yes", status=1).stderr
        assert "damaged" in alone("fsck", "--state", str(state), status=1).stdout
    assert (state / "s" / "bad").exists()
    assert "removed: 1" in alone(*words, "--yes", status=1).stderr
    assert not (state / "s" / "bad").exists()
    alone("fsck", "--state", str(state))


def test_where_nothing_is_kept_nothing_is_wrong(alone: Run, tmp_path: Path) -> None:
    assert json.loads(alone("fsck", "--state", str(tmp_path / "none"), "--json").stdout) == []
