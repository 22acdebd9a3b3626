"""A line that is split here must mean to a shell exactly what it means to us: a real shell is asked."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pandastack.host.plain import words_of

PLAIN_TEXT = st.text("abAB01_@%+:,./=- ~$*?'\"\\|&;<>(){}[]!#\t\n^`", min_size=1, max_size=24)


@settings(max_examples=150, deadline=None)
@given(PLAIN_TEXT)
def test_bash_splits_it_the_same_way(rest: str) -> None:
    words = words_of(f"/bin/program {rest}")
    if words is None:
        return
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {rest}"], capture_output=True, text=True, check=True, env={}
    )
    assert shown.stdout.split("\n")[:-1] == [*words[1:]]


@pytest.mark.parametrize("line", ["python3 /workspace/cell.py", "ls -la", "a  b", "env A=b c", "x@1.2%+:,_"])
def test_plain_lines_are_split(line: str) -> None:
    assert words_of(line) == tuple(line.split())


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            " ls",
            "ls ",
            "cd /tmp",
            "true",
            "A=b ls",
            "ls *",
            "ls ~",
            "echo hi",
            "a;b",
            "a | b",
            "a > b",
            "a $B",
        ),
        *(
            "'a' b",
            "a\nb",
            "a # b",
            "! a",
            "{ a; }",
            "time ls",
            "a\tb",
            "if",
            "[ a = b ]",
            "ls {a,b}",
            "a\\ b",
            "é",
        ),
    ],
)
def test_everything_else_goes_to_the_shell(line: str) -> None:
    assert words_of(line) is None


def test_every_built_in_of_bash_goes_to_the_shell() -> None:
    asked = subprocess.run(["bash", "-c", "compgen -bk"], capture_output=True, text=True, check=True)
    assert [word for word in asked.stdout.split() if words_of(f"{word} x") is not None] == []
