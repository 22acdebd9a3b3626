"""The program without a server: words, help, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pandastack import errors
from pandastack.cli.program import COMMANDS, hoisted
from pandastack.cli.session import advise

from .conftest import Run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sandbox ls --json", "--json sandbox ls"),
        ("sandbox --api http://h:1 ls", "--api http://h:1 sandbox ls"),
        ("token ls --token=x", "--token=x token ls"),
        ("run -- ls --json", "run -- ls --json"),
        ("run -t base ls --json", "run -t base ls --json"),
        ("--json run ls", "--json run ls"),
        ("sandbox exec ID ls --token x", "sandbox exec ID ls --token x"),
        ("sandbox ls --api", "--api sandbox ls"),
    ],
)
def test_options_of_the_program_may_stand_anywhere(words: str, expected: str) -> None:
    assert hoisted(words.split()) == expected.split()


def test_the_version_needs_nothing(alone: Run) -> None:
    assert alone("version").stdout.startswith("pandastack 0.")
    assert alone("version").stdout == alone("--version").stdout
    assert json.loads(alone("version", "--json").stdout)["version"] == alone("version").stdout.split()[1]
    program = (
        "import sys; sys.argv = ['pandastack', 'version']; import pandastack.cli.main as m; m.main();"
        "assert not {'typer', 'rich', 'httpx2', 'asyncio', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_help_names_every_command(alone: Run) -> None:
    text = alone("--help").stdout
    for name in COMMANDS:
        assert f" {name} " in text


@pytest.mark.parametrize("word", ["sandbox", "template", "cache", "token", "up", "run", "setup"])
def test_every_command_explains_itself(alone: Run, word: str) -> None:
    assert "Usage: pandastack" in alone(word, "--help").stdout


def test_a_slip_of_the_pen_is_guessed(alone: Run) -> None:
    assert "'sandbox'" in alone("sandbx", "ls", status=2).stderr


@pytest.mark.parametrize("words", ["sandbox rm", "sandbox create --nonsense", "run", "run -e x -- true"])
def test_wrong_usage_is_two(alone: Run, words: str) -> None:
    alone(*words.split(), status=2)


def test_an_error_is_a_sentence_and_what_to_do(alone: Run) -> None:
    assert "PANDASTACK_API_KEY" in alone("sandbox", "ls", status=1).stderr
    down = alone("sandbox", "ls", "--api", "http://127.0.0.1:9", "--token", "k", status=1)
    assert "`pandastack up`" in down.stderr
    assert "Traceback" not in down.stderr
    assert down.stdout == ""


def test_errors_are_followed_by_advice() -> None:
    assert advise(errors.TemplateNotFound("no x")) == "no x. `pandastack template ls` lists those there are."
    assert advise(errors.Conflict("It is paused.")) == "It is paused."


def test_completion_is_a_script_that_works(alone: Run) -> None:
    assert "_pandastack_completion" in alone("completion", "bash").stdout
    assert "compdef" in alone("completion", "zsh").stdout


def test_the_cache_needs_no_server(alone: Run, tmp_path: Path) -> None:
    assert json.loads(alone("cache", "ls", "--json").stdout) == []
    images = tmp_path / ".cache" / "pandastack" / "images" / "base"
    for digest, day in (("a" * 64, 2), ("b" * 64, 1)):
        (images / digest).mkdir(parents=True)
        (images / digest / "root.ext4").write_bytes(b"x" * 4096)
        os.utime(images / digest, (day * 86400, day * 86400))
    assert [row.split()[:3] for row in alone("cache", "ls").stdout.splitlines()] == [
        ["KIND", "NAME", "DIGEST"],
        ["image", "base", "a" * 12],
        ["image", "base", "b" * 12],
    ]
    told = alone("cache", "prune", "--dry-run", "--keep-days", "3").stdout
    assert "b" * 12 in told
    assert "would be freed: 0 MB" in told
    answer = json.loads(alone("cache", "prune", "--json").stdout)
    assert [each["digest"] for each in answer["removed"]] == ["b" * 64]
    assert answer["freed_bytes"] >= 4096
    assert [path.name for path in images.iterdir()] == ["a" * 64]
    assert alone("cache", "prune").stdout == "freed: 0 MB\n"


def test_down_without_a_server_is_fine(alone: Run) -> None:
    assert "does not exist" in alone("down").stdout
