"""Jupyter's messages: signed ones are understood, everything else is passed over."""

from __future__ import annotations

import itertools
import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pandastack.jupyter.messages import DELIMITER, Heard, Speech, event_of, is_idle
from pandastack.model.code import CellError, Shown, Text


def speech(key: str = "secret") -> Speech:
    count = itertools.count()
    return Speech(key, lambda: f"id-{next(count)}")


def test_what_one_says_the_other_hears() -> None:
    message_id, parts = speech().say("execute_request", {"code": "1"})
    heard = speech().hear((b"routing", *parts))
    assert message_id == "id-1"
    assert heard == Heard("execute_request", "", b'{"code":"1"}')


def test_what_is_not_signed_with_the_key_is_passed_over() -> None:
    _, parts = speech().say("status", {})
    assert speech("another").hear(parts) is None
    assert speech().hear((*parts[:-1], b'{"execution_state":"idle"}')) is None
    assert speech().hear(parts[:-1]) is None
    assert speech().hear(parts[1:]) is None
    assert speech().hear((b"x",) * 20 + parts) is None
    assert speech().hear(()) is None


@given(st.lists(st.binary(max_size=50) | st.just(DELIMITER), max_size=10))
def test_no_parts_do_any_harm(parts: list[bytes]) -> None:
    assert speech().hear(tuple(parts)) is None


KINDS = ("stream", "execute_result", "display_data", "error", "status", "other")


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_no_content_does_any_harm(kind: str, content: bytes) -> None:
    heard = Heard(kind, "", content)
    assert event_of(heard) is None or isinstance(event_of(heard), Text | Shown | CellError)
    assert is_idle(heard) in (True, False)


@given(st.sampled_from(KINDS), st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_no_json_does_any_harm(kind: str, value: object) -> None:
    for content in (value, {"data": value}, {"data": {"text/plain": value}}, {"text": value, "name": value}):
        event_of(Heard(kind, "", msgspec.json.encode(content)))


def test_what_is_nested_without_end_is_passed_over() -> None:
    deep = b'{"data":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert event_of(Heard("display_data", "", deep)) is None


def test_results_are_text_and_json_is_kept_as_it_came() -> None:
    content = {"data": {"text/plain": "2", "application/json": {"a": [1, None]}, "x/list": ["b"]}}
    shown = event_of(Heard("execute_result", "", json.dumps(content).encode()))
    assert isinstance(shown, Shown)
    assert shown.main
    assert shown.data["text/plain"] == "2"
    assert json.loads(shown.data["application/json"]) == {"a": [1, None]}
    assert json.loads(shown.data["x/list"]) == ["b"]


def test_a_traceback_has_no_colours() -> None:
    content = {"ename": "E", "evalue": "\x1b[31mv", "traceback": ["\x1b[0;31mline\x1b[0m"]}
    error = event_of(Heard("error", "", json.dumps(content).encode()))
    assert error == CellError("E", "v", ("line",))
