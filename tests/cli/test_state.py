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
    booted = pandastack("sandbox", "create", "--from-snapshot", taken, "--disk-only")
    assert " cold " in booted.stderr
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
    kept = ["--persistent", "--checkpoints", "--keep-checkpoints", "7", "--json"]
    told = json.loads(pandastack("sandbox", "ttl", made, *kept).stdout)
    assert (told["persistent"], told["checkpoints"], told["keep_checkpoints"]) == (True, "exec", 7)
    kept = ["--no-persistent", "--no-checkpoints", "--json"]
    told = json.loads(pandastack("sandbox", "ttl", made, *kept).stdout)
    assert (told["persistent"], told["checkpoints"], told["ttl_seconds"]) == (False, "off", 50)
    pandastack("sandbox", "hibernate", made)
    pandastack("sandbox", "wake", made, "--disk-only")
    assert "boot_mode: cold" in pandastack("sandbox", "get", made).stdout
    pandastack("sandbox", "rm", made)


def test_a_rollback(pandastack: Run, made: str) -> None:
    taken = pandastack("snapshot", "create", made).stdout.strip()
    assert pandastack("sandbox", "rollback", made, taken).stdout.strip() == made
    assert "no snapshot" in pandastack("sandbox", "rollback", made, "nothing", status=1).stderr
    pandastack("snapshot", "rm", taken)
    pandastack("sandbox", "rm", made)


def test_a_timeline_from_end_to_end(pandastack: Run) -> None:
    box = pandastack(
        "sandbox", "create", "-t", "base", "--checkpoints", "--keep-checkpoints", "9"
    ).stdout.strip()
    pandastack("sandbox", "exec", box, "--", "sh", "-c", "exit 4", status=4)
    lines = pandastack("sandbox", "timeline", box).stdout.splitlines()
    assert lines[0].split() == ["STEP", "AGE", "EXIT", "TOOK", "SIZE", "NAME", "COMMAND"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1"]
    assert lines[2].endswith("sh -c 'exit 4'")
    steps = json.loads(pandastack("sandbox", "timeline", box, "--json").stdout)
    assert [step["exit_code"] for step in steps] == [None, 4]
    for step, meant in (("1", 1), ("-2", 0)):
        made = pandastack("sandbox", "at", box, step, "--json").stdout
        assert json.loads(made)["from_snapshot"] == steps[meant]["snapshot_id"]
    assert "no step 7; it has 0, 1." in pandastack("sandbox", "at", box, "7", status=1).stderr
    assert "step 0" in pandastack("sandbox", "rollback", box, "--step", "0").stderr
    pandastack("sandbox", "rollback", box, status=2)
    renamed = pandastack("snapshot", "rename", steps[1]["snapshot_id"], "here", "-c", "why").stdout
    assert "name: here" in renamed
    assert "comment: why" in renamed
    assert " here " in pandastack("sandbox", "timeline", box).stdout
    pandastack("sandbox", "exec", box, "--", "sh", "-c", "sleep 60 > /dev/null 2>&1 &")
    told = pandastack("sandbox", "timeline", box)
    kept = "sleep 60" in told.stdout  # local processes have no memory image: nothing is kept of one that runs
    assert kept != ("no step behind sh -c 'sleep 60" in told.stderr)
    pandastack("sandbox", "rm", "--all")
    pandastack("snapshot", "rm", steps[1]["snapshot_id"])


def test_a_diff_is_a_list_for_people_and_json_for_programs(pandastack: Run, made: str) -> None:
    other = pandastack("sandbox", "create", "-t", "base").stdout.strip()
    told = pandastack("diff", made, other, "--path", "/etc/apt")
    assert "files added" in told.stderr
    taken = pandastack("snapshot", "create", made).stdout.strip()
    as_json = json.loads(pandastack("diff", taken, other, "-p", "/etc/apt", "--json").stdout)
    assert (as_json["added"], as_json["truncated"]) == ([], False)
    pandastack("diff", f"{made}@last", other, status=2)
    assert "has no steps" in pandastack("diff", f"{made}@1", other, status=1).stderr
    pandastack("sandbox", "rm", "--all")
    pandastack("snapshot", "rm", taken)
