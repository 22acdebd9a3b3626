"""Jupyter's messages: signed ones are understood, everything else is passed over."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json

import msgspec
import pytest
from httpx2 import ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st

from pandastack.client._code import CellCapture
from pandastack.jupyter.messages import DELIMITER, Heard, Speech, event_of, is_idle, milliseconds
from pandastack.model.code import CellError, Shown, Text
from pandastack.services.cells import RESULT_BYTES_MOST, Cell


def speech(key: str = "secret") -> Speech:
    count = itertools.count()
    return Speech(key, lambda: f"id-{next(count)}")


def test_what_one_says_the_other_hears() -> None:
    message_id, parts = speech().say("execute_request", {"code": "1"})
    heard = speech().hear((b"routing", *parts))
    assert message_id == "id-1"
    assert heard == Heard("execute_request", "", b'{"code":"1"}', "1970-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "header", [b'{"msg_type":"status","date":null}', b'{"msg_type":"status","date":[1]}']
)
def test_a_message_without_a_date_is_heard(header: bytes) -> None:
    parts = (header, b"{}", b"{}", b'{"execution_state":"idle"}')
    signature = hmac.new(b"secret", b"".join(parts), hashlib.sha256).hexdigest().encode()
    heard = speech().hear((DELIMITER, signature, *parts))
    assert heard is not None
    assert (is_idle(heard), heard.date) == (True, "")


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


KINDS = ("stream", "execute_result", "display_data", "update_display_data", "error", "status", "other")


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_no_content_does_any_harm(kind: str, content: bytes) -> None:
    heard = Heard(kind, "", content)
    assert event_of(heard) is None or isinstance(event_of(heard), Text | Shown | CellError)
    assert is_idle(heard) in (True, False)


@given(st.sampled_from(KINDS), st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_no_json_does_any_harm(kind: str, value: object) -> None:
    bundles = ({"data": value}, {"data": {"text/plain": value}}, {"data": {}, "transient": value})
    for content in (value, *bundles, {"text": value, "name": value}):
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


def bundle(kind: str, text: str, name: str | None) -> Shown:
    content = {"data": {"text/plain": text}, "transient": {"display_id": name} if name else {}}
    shown = event_of(Heard(kind, "", json.dumps(content).encode()))
    assert isinstance(shown, Shown)
    return shown


def test_an_update_takes_the_place_of_what_was_displayed_under_its_name() -> None:
    cell = Cell(0.0, 1000)
    for shown in (
        bundle("display_data", "a 0", "a"),
        bundle("display_data", "other", None),
        bundle("display_data", "again a", "a"),
        bundle("update_display_data", "a 1", "a"),
        bundle("update_display_data", "of an earlier cell", "b"),
        bundle("update_display_data", "of it again", "b"),
        bundle("update_display_data", "of nobody", None),
    ):
        cell.add(shown)
    told = [one["text/plain"] for one in cell.result("python", 0.0).results]
    assert told == ["a 1", "other", "a 1", "of it again", "of nobody"]


def dated(date: str) -> Heard:
    return Heard("status", "", b"", date)


def test_a_kernels_own_time_is_that_of_its_clock() -> None:
    begun = dated("2024-05-01T10:00:00.250000+02:00")
    assert milliseconds(begun, dated("2024-05-01T08:00:01Z")) == 750.0
    for other in (None, dated(""), dated("yesterday"), dated("2024-05-01T10:00:00")):
        assert milliseconds(begun, other) is None
        assert milliseconds(other, begun) is None


def test_updates_are_counted_as_what_they_leave() -> None:
    cell = Cell(0.0, 1000)
    cell.add(bundle("display_data", "0", "a"))
    for number in range(8):
        cell.add(bundle("update_display_data", f"{number}".ljust(RESULT_BYTES_MOST // 4), "a"))
    assert not cell.result("python", 0.0).truncated
    cell.add(bundle("update_display_data", "x" * (RESULT_BYTES_MOST + 1), "a"))
    assert cell.result("python", 0.0).truncated


def test_a_client_sees_updates_in_the_place_of_what_they_replace() -> None:
    told: list[str | None] = []
    capture = CellCapture(None, None, lambda result: told.append(result.text))
    for event, text, name in (("result", "0 %", "a"), ("result", "x", None), ("update", "1 %", "a")):
        data = {"data": {"text/plain": text}, "display_id": name}
        capture.take(ServerSentEvent(event=event, data=json.dumps(data)))
    capture.take(ServerSentEvent(event="end", data="{}"))
    assert [result.text for result in capture.result().results] == ["1 %", "x"]
    assert told == ["0 %", "x", "1 %"]
