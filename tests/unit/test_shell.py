"""What is typed at a shell of a sandbox, and what of old output is shown."""

from __future__ import annotations

import pytest

from pandastack.cli.shell import LEAVE, QUESTIONS, Keys


@pytest.mark.parametrize(
    ("typed", "passed", "leaves"),
    [
        ([b"ls ~/x\r"], b"ls ~/x\r", False),
        ([b"~."], b"", True),
        ([b"a\r", b"~", b".", b"more"], b"a\r", True),
        ([b"a~."], b"a~.", False),
        ([b"~~."], b"~.", False),
        ([b"~x"], b"~x", False),
        ([b"~\r~."], b"~\r", True),
        ([b"\x03~."], b"\x03~.", False),
        ([LEAVE], b"", True),
    ],
)
def test_a_tilde_at_the_start_of_a_line_leaves(typed: list[bytes], passed: bytes, leaves: bool) -> None:
    keys = Keys()
    out = b""
    for data in typed:
        if not keys.leaving:
            out += keys.passed(data)
    assert (out, keys.leaving) == (passed, leaves)


@pytest.mark.parametrize(
    "question",
    [
        *(b"\x1b[c", b"\x1b[>c", b"\x1b[0c", b"\x1b[6n", b"\x1b[?6n", b"\x1b[>q", b"\x1b[?u"),
        *(b"\x1b[?2026$p", b"\x1b[18t", b"\x1b]11;?\x07", b"\x1b]4;1;?\x1b\\", b"\x1bP$qm\x1b\\", b"\x05"),
    ],
)
def test_old_questions_are_left_out(question: bytes) -> None:
    assert QUESTIONS.sub(b"", b"before" + question + b"behind") == b"beforebehind"


@pytest.mark.parametrize(
    "words",
    [b"\x1b[31mred\x1b[0m", b"\x1b[2J\x1b[H", b"\x1b[?1049h", b"\x1b]0;a title\x07", b"6n", b"\x1b[1;5r"],
)
def test_the_rest_is_as_it_was(words: bytes) -> None:
    assert QUESTIONS.sub(b"", words) == words
