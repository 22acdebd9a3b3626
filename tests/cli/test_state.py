"""Snapshots, forks and sleep from the command line, against a server."""

from __future__ import annotations

import json

import pytest

from .conftest import Run

pytestmark = [pytest.mark.wire, pytest.mark.timeout(180, func_only=True)]


@pytest.fixture
def made(pandastack: Run) -> str:
    return pandastack("sandbox", "create", "-t", "base").stdout.strip()


def test_a_snapshot_from_end_to_end(pandastack: Run, made: str) -> None:
    taken = pandastack("snapshot", "create", made, "--name", "warm", "-c", "ready").stdout.strip()
    listed = pandastack("snapshot", "ls", "--sandbox", made).stdout
    assert listed.splitlines()[0].split()[:3] == ["ID", "NAME", "SANDBOX"]
    assert taken in listed
    assert "warm" in listed
    assert [each["id"] for each in json.loads(pandastack("snapshot", "ls", "--json").stdout)] == [taken]
    assert "comment: ready" in pandastack("snapshot", "get", taken).stdout
    copy = pandastack("sandbox", "create", "--from-snapshot", taken)
    assert "snapshot" in copy.stderr
    assert f"from_snapshot: {taken}" in pandastack("sandbox", "get", copy.stdout.strip()).stdout
    assert pandastack("snapshot", "rm", taken).stdout.strip() == taken
    assert "pandastack snapshot ls" in pandastack("snapshot", "get", taken, status=1).stderr
    pandastack("sandbox", "rm", "--all")


def test_a_fork_is_an_id_and_several_are_a_table(pandastack: Run, made: str) -> None:
    child = pandastack("sandbox", "fork", made, "-m", "a=b").stdout.strip()
    assert json.loads(pandastack("sandbox", "get", child, "--json").stdout)["metadata"]["a"] == "b"
    several = pandastack("sandbox", "fork", child, "--count", "3")
    assert several.stdout.splitlines()[0].split() == ["ID", "INDEX", "STATUS", "BOOT"]
    assert "3 children" in several.stderr
    told = json.loads(pandastack("sandbox", "fork", child, "-n", "2", "--json").stdout)
    assert (len(told["children"]), told["errors"]) == (2, [])
    first, second = (each["id"] for each in told["children"])
    assert f"deleted: {second}" in pandastack("sandbox", "promote", first, "--cleanup").stdout
    pandastack("sandbox", "fork", child, "--count", "17", status=2)
    drawn = pandastack("tree", first).stdout
    assert [drawn.index(each) for each in (made, child, first)] == sorted(
        drawn.index(each) for each in (made, child, first)
    )
    marked = [line for line in drawn.splitlines() if "this one" in line]
    assert len(marked) == 1
    assert first in marked[0]
    assert json.loads(pandastack("tree", made, "--json").stdout)["root"] == made
    pandastack("sandbox", "rm", "--all")


def test_sleep_and_what_prevents_it(pandastack: Run, made: str) -> None:
    pandastack("sandbox", "hibernate", made)
    assert "hibernated" in pandastack("sandbox", "ls").stdout
    assert pandastack("sandbox", "why-awake", made).stdout.startswith("hibernated")
    told = pandastack("sandbox", "wake", made, "--json").stdout
    assert json.loads(told) == {"id": made, "status": "running"}
    pandastack("sandbox", "hibernate", made)
    assert pandastack("sandbox", "exec", made, "echo woken").stdout == "woken\n"
    assert pandastack("sandbox", "why-awake", made).stdout.startswith("running")
    limits = pandastack("sandbox", "ttl", made, "50", "--on-timeout", "hibernate", "--lifetime", "500").stdout
    assert "on_timeout: hibernate" in limits
    assert "expires_at: " in limits
    assert "expires_at: " not in pandastack("sandbox", "ttl", made, "--lifetime", "0").stdout
    pandastack("sandbox", "rm", made)


def test_a_rollback(pandastack: Run, made: str) -> None:
    taken = pandastack("snapshot", "create", made).stdout.strip()
    assert pandastack("sandbox", "rollback", made, taken).stdout.strip() == made
    assert "no snapshot" in pandastack("sandbox", "rollback", made, "nothing", status=1).stderr
    pandastack("snapshot", "rm", taken)
    pandastack("sandbox", "rm", made)
