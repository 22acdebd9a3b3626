"""The pure parts of the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from rich.console import Console

from pandastack import Client, Lineage, LineageNode, Sandbox
from pandastack.cli.copy import Remote, parse, safe_name
from pandastack.cli.credentials import remember
from pandastack.cli.lifecycle import Timeout, times_of
from pandastack.cli.progress import Steps, reporting
from pandastack.cli.run import split_copy
from pandastack.cli.sandbox import words_of
from pandastack.cli.session import age, pairs, plain, summary
from pandastack.cli.state import held, holder
from pandastack.cli.tree import drawn
from pandastack.client import ConfigFile, read_config
from pandastack.errors import Conflict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s1:/etc/hosts", Remote("s1", "/etc/hosts")),
        ("./a:b", Path("./a:b")),
        ("a:b", Path("a:b")),
        ("./x:/y", Path("./x:/y")),
        ("plain", Path("plain")),
    ],
)
def test_a_path_is_here_or_there(text: str, expected: Remote | Path) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0b"])
def test_a_name_from_the_guest_stays_in_its_directory(name: str) -> None:
    with pytest.raises(typer.BadParameter):
        safe_name(name)


def test_what_is_copied_into_a_run() -> None:
    assert split_copy("a:b:/c") == ("a:b", "/c")
    for wrong in ("a", "a:b", ":/c", "a:"):
        with pytest.raises(typer.BadParameter):
            split_copy(wrong)


def test_values_are_told_to_people() -> None:
    assert plain({"a": {"b": 1, "c": True}, "d": "e"}) == "a=b=1 c=yes d=e"
    assert [plain(value) for value in (False, 0.5, "text")] == ["no", "0.5", "text"]


def test_pairs_have_an_equals_sign() -> None:
    assert pairs(["A=b=c", "D="], "--env") == {"A": "b=c", "D": ""}
    for wrong in ("A", "=b"):
        with pytest.raises(typer.BadParameter):
            pairs([wrong], "--env")


def test_a_command_loses_only_its_first_dashes() -> None:
    assert words_of(["--", "ls", "--", "x"]) == ["ls", "--", "x"]
    assert words_of(["ls"]) == ["ls"]


@pytest.mark.parametrize(("seconds", "text"), [(3, "3s"), (70, "1m"), (7300, "2h"), (200_000, "2d")])
def test_ages_are_rough(seconds: int, text: str) -> None:
    assert age((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == text
    assert age(None) == ""


def test_steps_are_measured() -> None:
    times = iter([0.0, 1.0, 3.0, 6.0])
    steps = Steps(lambda what, fraction: None, lambda: next(times))
    steps("one", None)
    steps("one", 0.5)
    steps("two", None)
    steps.finish()
    assert steps.laps == [("one", 2.0), ("two", 3.0)]


def test_progress_without_a_terminal_is_lines() -> None:
    text = io.StringIO()
    with reporting(Console(file=text)) as steps:
        for fraction in (0.1, 0.2):
            steps("downloading", fraction)
        steps("unpacking", None)
    assert text.getvalue() == "downloading\nunpacking\n"


def test_a_state_directory_has_one_server(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert holder(state) is None
    program = (
        "import sys; from pathlib import Path; from pandastack.cli.state import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", program, str(state)], stdin=pipe, stdout=pipe)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert holder(state) == other.pid
        with pytest.raises(Conflict, match=rf"process {other.pid}.*pandastack down"), held(state):
            pass
    assert holder(state) is None
    with held(state):
        assert (state / "server.lock").read_text() == str(os.getpid())


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "config" / "config.json"
    assert remember(path, "http://a:1", "one") == ConfigFile()
    assert remember(path, "http://b:1", "two") == ConfigFile("http://a:1", "one")
    assert read_config(path) == ConfigFile("http://b:1", "two")
    assert json.loads(path.with_name("config.json.old").read_text())["token"] == "one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_lineage_is_drawn_from_its_root() -> None:
    def node(name: str, parent: str | None, minute: int) -> LineageNode:
        made = f"2026-01-01T00:{minute:02}:00+00:00"
        return LineageNode(
            id=name,
            parent_id=parent,
            status="deleted" if name == "root" else "running",
            template="base",
            created_at=made,
            tree_id="0123456789" if name == "late" else None,
            via_snapshot=None,
        )

    nodes = [
        node("leaf", "late", 3),
        node("late", "root", 2),
        node("root", None, 0),
        node("early", "root", 1),
    ]
    nodes.append(node("orphan", "forgotten", 4))
    text = io.StringIO()
    Console(file=text, width=200).print(drawn(Lineage(root="root", nodes=nodes), "leaf"))
    lines = text.getvalue().splitlines()
    assert [line.strip("│├└─ ").split()[0] for line in lines] == ["root", "early", "late", "leaf", "orphan"]
    assert [line for line in lines if "this one" in line] == [lines[3]]
    assert "tree 01234567 " not in lines[3]
    assert lines[2].endswith("tree 01234567")


def test_limits_are_taken_away_by_zero() -> None:
    assert times_of(None, None, None) == {}
    assert times_of(Timeout.HIBERNATE, 0, 60) == {
        "on_timeout": "hibernate",
        "idle_timeout_seconds": None,
        "lifetime_seconds": 60,
    }


def test_what_a_jail_lacks_is_told_with_its_sandbox() -> None:
    made = {"id": "s", "template": "base", "boot_mode": "snapshot", "boot_ms": 12, "isolation": "hardware"}
    with Client("http://example.com", "key") as client:
        assert summary(Sandbox.from_dict(made, client)) == "base · snapshot · 12 ms · hardware"
        lacks = Sandbox.from_dict({**made, "degraded": ["not root"]}, client)
    assert summary(lacks).endswith("hardware · degraded: not root")
