"""Decoding of requests, errors as bodies, and the watch over a client that waits."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct
from starlette.requests import Request

from pandastack.endpoint import READ_AHEAD, ClientGone, attended, decode_body, error_response, inflow
from pandastack.errors import (
    BootFailed,
    Conflict,
    GuestUnreachable,
    InvalidRequest,
    NoCapacity,
    PandastackError,
    Unauthorized,
    from_body,
)

pytestmark = pytest.mark.anyio


class Thing(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    count: Annotated[int, Meta(ge=1)] = 1
    tags: dict[str, str] = {}
    ttl_seconds: int | None = None


DECODER = msgspec.json.Decoder(Thing)


def decode(data: bytes) -> Thing:
    return decode_body(data, Thing, DECODER)


def test_a_body_that_fits_is_the_value() -> None:
    assert decode(b' {"name": "a", "count": 2}\n') == Thing("a", 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "lacks the field `name`"),
        (b"{}", "lacks the field `name`"),
        (b'{"nam": "a"}', "unknown field `nam`; did you mean 'name'"),
        (b'{"name": "a", "zzz": 1}', "known are: name, count, tags, ttl_seconds"),
        (b'{"name": 3}', "field `name` does not fit: expected `str`, got `int`"),
        (b'{"name": "a", "count": 0}', "field `count` does not fit: expected `int` >= 1"),
        (b'{"name": "a", "tags": {"k": 1}}', "field `tags"),
        (b'{"name": "a", "ttl_seconds": "5"}', "field `ttl_seconds`"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"name": ', "not JSON"),
        (b'{"name": "a",}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b'{"name": "a", "count": 1e999}', "count"),
    ],
)
def test_a_body_that_does_not_fit_is_told_by_field(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(data)
    assert words in caught.value.message


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_anything_but_a_value_or_a_refusal(data: bytes) -> None:
    try:
        decode(data)
    except InvalidRequest as error:
        assert error.message


def body_of(error: PandastackError) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(error_response(error, "r1").body)
    return decoded


def test_an_error_crosses_the_wire_as_its_class() -> None:
    body = body_of(Conflict("It is paused.", state="paused"))
    assert body["error"] == "It is paused." and body["request_id"] == "r1"
    rebuilt = from_body(body, 409)
    assert type(rebuilt) is Conflict and rebuilt.details == {"state": "paused"}


def test_errors_carry_the_headers_that_belong_to_them() -> None:
    assert error_response(NoCapacity("full"), "r").headers["retry-after"] == "2"
    assert error_response(Unauthorized("who?"), "r").headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in error_response(Conflict("no"), "r").headers


@pytest.mark.parametrize("words", ["connection refused", "no route to host", "i/o timeout"])
def test_a_lasting_error_never_says_the_words_of_one_that_passes(words: str) -> None:
    for said in (words, words.capitalize()):
        assert words not in body_of(BootFailed(f"The VMM said: {said}."))["error"].lower()
    assert words in body_of(GuestUnreachable(f"The agent said: {words}."))["error"]


class Client:
    """The receiving end of a connection; the client leaves when `leave` is called."""

    def __init__(self) -> None:
        self._left = asyncio.Event()
        self.beats = 0

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, str]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def beat(self) -> None:
        self.beats += 1


async def test_work_is_done_while_the_client_waits() -> None:
    async def work() -> int:
        await asyncio.sleep(0.05)
        return 5

    client = Client()
    assert await attended(client.receive, work(), client.beat, 0.01) == 5
    assert client.beats >= 2


async def test_an_error_of_the_work_comes_out_as_itself() -> None:
    async def work() -> None:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await attended(Client().receive, work(), None, 1)


async def test_a_client_that_leaves_cancels_the_work_and_waits_for_its_end() -> None:
    client, steps = Client(), []

    async def work() -> None:
        client.leave()
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    with pytest.raises(ClientGone):
        await attended(client.receive, work(), None, 1)
    assert steps == ["cleaned up"]


async def test_a_cancelled_caller_cancels_the_work_and_is_cancelled_itself() -> None:
    steps = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            steps.append("cleaned up")

    task = asyncio.ensure_future(attended(Client().receive, work(), None, 1))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["cleaned up"]


class Uploader(Client):
    """A client that sends pieces before it listens; `taken` counts those that were asked for."""

    def __init__(self, *pieces: bytes, more: bool = False) -> None:
        super().__init__()
        self._pieces = list(pieces)
        self._more = more
        self.taken = 0

    async def message(self) -> dict[str, Any]:
        if not self._pieces:
            return await self.receive()
        self.taken += 1
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": self._more or bool(self._pieces)}

    def request(self) -> Request:
        return Request({"type": "http", "headers": []}, self.message)


async def test_a_body_flows_in_and_its_end_is_one() -> None:
    async with inflow(Uploader(b"a", b"", b"b").request(), 1) as pieces:
        assert [piece async for piece in pieces] == [b"a", b"b"]
    async with inflow(Uploader(b"").request(), 1) as pieces:
        assert [piece async for piece in pieces] == []


async def test_of_a_body_that_nobody_takes_little_is_read() -> None:
    client = Uploader(*[b"x"] * 100)
    async with inflow(client.request(), 1):
        await asyncio.sleep(0.02)
    assert client.taken == READ_AHEAD + 1


@pytest.mark.parametrize("more", [True, False])
async def test_a_client_that_leaves_its_body_or_its_answer_is_noticed(more: bool) -> None:
    client, steps = Uploader(b"a", more=more), []
    with pytest.raises(ClientGone):
        async with inflow(client.request(), 1) as pieces:
            assert await anext(pieces) == b"a"
            client.leave()
            try:
                await asyncio.sleep(10)
            finally:
                steps.append("cleaned up")
    assert steps == ["cleaned up"]


async def test_an_error_of_the_receiver_comes_out_as_itself() -> None:
    with pytest.raises(Conflict, match="no"):
        async with inflow(Uploader(b"a").request(), 1):
            raise Conflict("no")
