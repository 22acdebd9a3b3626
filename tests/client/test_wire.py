"""The wire as tables: addresses, bodies, answers, errors."""

from __future__ import annotations

import pytest

from pandastack import errors
from pandastack.client import _wire
from pandastack.client._errors import (
    AuthError,
    BadRequestError,
    CommandFailed,
    ConnectionError,
    CreateCancelled,
    ExecInterrupted,
    NotFoundError,
    PandastackError,
    SandboxTimeout,
    ServerError,
)
from pandastack.client._values import ExecResult, FileInfo, Template, Token


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://h:8080", "http://h:8080/v1/sandboxes"),
        ("http://h:8080/v1", "http://h:8080/v1/sandboxes"),
        ("https://h/panda", "https://h/panda/v1/sandboxes"),
    ],
)
def test_an_address_names_v1_once(base: str, expected: str) -> None:
    assert _wire.url_of(base, "/sandboxes") == expected


def test_a_websocket_keeps_host_and_security() -> None:
    assert _wire.socket_url("https://h:1", "/x") == "wss://h:1/v1/x"
    assert _wire.socket_url("http://h:1/v1", "/x") == "ws://h:1/v1/x"


def test_an_id_cannot_leave_its_segment() -> None:
    assert _wire.segment("../me?x=1") == "..%2Fme%3Fx%3D1"


@pytest.mark.parametrize(
    ("status", "body", "content_type", "kind", "message"),
    [
        (400, b'{"error":"bad"}', "application/json", BadRequestError, "bad"),
        (401, b'{"error":"unauthorized","detail":"x"}', "application/json", AuthError, "unauthorized"),
        (403, b'{"error":"no"}', "application/json", BadRequestError, "no"),
        (404, b'{"message":"gone"}', "application/json", NotFoundError, "gone"),
        (409, b'{"error":"paused"}', "application/json", BadRequestError, "paused"),
        (413, b'{"error":"big"}', "application/json", BadRequestError, "big"),
        (429, b'{"error":"slow"}', "application/json", BadRequestError, "slow"),
        (500, b"oops", "text/plain", ServerError, "oops"),
        (502, b"", "", ServerError, "The server answered HTTP 502."),
        (503, b'{"error":"full"}', "application/json", ServerError, "full"),
        (507, b'{"error":"disk"}', "application/json", ServerError, "disk"),
    ],
)
def test_an_answer_becomes_the_error_that_the_official_names_catch(
    status: int, body: bytes, content_type: str, kind: type[PandastackError], message: str
) -> None:
    error = _wire.error_of(status, body, content_type)
    assert isinstance(error, kind)
    assert str(error) == message


def test_a_code_says_more_than_a_status() -> None:
    body = b'{"error":"x","code":"sandbox.boot_failed","details":{"console":"panic"}}'
    error = _wire.error_of(500, body, "application/json")
    assert type(error) is errors.BootFailed
    assert error.details == {"console": "panic"}


def test_a_timeout_is_no_server_error() -> None:
    timeout = _wire.stream_error({"error": "command timeout: exceeded 3s", "code": "command.timeout"})
    assert isinstance(timeout, SandboxTimeout)
    assert not isinstance(timeout, ServerError)


@pytest.mark.parametrize(
    ("message", "is_timeout"),
    [
        ("command timeout: exceeded 3s", True),
        ("context deadline exceeded", True),
        ("dial: i/o timeout", False),
    ],
)
def test_servers_without_codes_tell_of_a_timeout_by_words(message: str, is_timeout: bool) -> None:
    assert isinstance(_wire.stream_error({"error": message}), SandboxTimeout) is is_timeout


def test_errors_of_a_client_have_codes_of_their_own() -> None:
    kinds = (ConnectionError, ExecInterrupted, CommandFailed, CreateCancelled)
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert type(errors.from_body({"error": "x", "code": "internal.error"}, 500)) is errors.InternalError


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b"", "application/json", None),
        (b'  \n {"a":1}', "application/json", {"a": 1}),
        (b'{"a":1}', "", {"a": 1}),
        (b"plain", "text/plain; charset=utf-8", "plain"),
        (b"not json", "application/json", "not json"),
        (b"\xff\x00", "application/octet-stream", b"\xff\x00"),
    ],
)
def test_bodies_are_read_as_what_they_are(body: bytes, content_type: str, value: object) -> None:
    assert _wire.decode(body, content_type) == value


@pytest.mark.parametrize(
    ("listing", "items"),
    [([1, 2], [1, 2]), ({"items": [1]}, [1]), ({"items": None}, []), (None, []), ({}, [])],
)
def test_listings_come_bare_or_wrapped(listing: object, items: list[object]) -> None:
    assert _wire.items_of(listing) == items


def test_a_create_says_only_what_was_said() -> None:
    body = _wire.create_body(
        template="base",
        metadata={},
        ttl_seconds=None,
        persistent=False,
        from_snapshot=None,
        volumes=[{"name": "v", "readOnly": True}],
        env=None,
        times={"on_timeout": "kill", "lifetime_seconds": None},
    )
    assert body == {
        "template": "base",
        "volumes": [{"name": "v", "read_only": True}],
        "on_timeout": "kill",
    }


@pytest.mark.parametrize(
    ("stdin", "fields"),
    [
        (None, {}),
        ("é", {"stdin": "é"}),
        (b"x\n", {"stdin": "x\n"}),
        (b"", {"stdin": ""}),
        (b"\xff", {"stdin_base64": "/w=="}),
    ],
)
def test_stdin_travels_as_text_where_it_is_some(stdin: str | bytes | None, fields: dict[str, str]) -> None:
    assert _wire.exec_body("cat", None, {}, stdin=stdin) == {"cmd": "cat", **fields}


def test_a_command_says_where_it_runs() -> None:
    body = _wire.exec_body(("ls", "-l"), 2.5, {"cwd": "/tmp", "env": {"A": "b"}, "user": "nobody"})
    assert body == {
        "cmd": ["ls", "-l"],
        "timeout_seconds": 2.5,
        "cwd": "/tmp",
        "env": {"A": "b"},
        "user": "nobody",
    }


@pytest.mark.parametrize(
    ("language", "program"),
    [("python", "python3"), ("PY", "python3"), ("bash", "bash"), ("sh", "bash"), ("node", "node")],
)
def test_code_runs_in_its_language(language: str, program: str) -> None:
    command, stdin = _wire.code_command("1", language)
    assert (command[0], command[-1], stdin) == (program, "1", None)


def test_long_code_goes_through_stdin() -> None:
    code = "#" * 200_000
    assert _wire.code_command(code, "python") == (["python3", "-"], code)
    assert _wire.code_command(code, "bash") == (["bash"], code)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="cobol"):
        _wire.code_command("", "cobol")


def test_a_failed_command_keeps_what_it_printed() -> None:
    with pytest.raises(CommandFailed, match="code 3: false") as caught:
        _wire.check_exit(ExecResult("out", "err", 3), ["false"])
    assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (3, "out", "err")


def test_the_longest_silence_follows_the_deadline() -> None:
    assert _wire.stream_gap(None) == 900
    assert _wire.stream_gap(3600) == 3660


def test_answers_of_other_servers_are_read() -> None:
    assert ExecResult.from_dict({"stdout": "a", "exit": 4}) == ExecResult("a", "", 4)
    assert FileInfo.from_dict({"name": "a", "new": 1}, parent="/x/").path == "/x/a"
    assert FileInfo.from_dict({"name": "a", "path": "/y"}).path == "/y"
    assert Token.from_dict({"prefix": "p", "label": "ci"}) == Token("p", "ci")
    assert Template.from_dict({"name": "base", "cpu": 2, "unheard": 1}).cpu == 2


@pytest.mark.parametrize(
    ("event", "data", "line"),
    [
        ("line", '{"line":"  x\\n"}', "  x"),
        ("message", '{"chunk":"y"}', "y"),
        ("", "raw", "raw"),
        ("", "3", "3"),
    ],
)
def test_log_lines_have_many_coats(event: str, data: str, line: str) -> None:
    assert _wire.log_line(event, data) == line
