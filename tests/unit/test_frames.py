"""Frames and fields: what goes in comes out, however it is cut; what is not allowed is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.errors import InvalidRequest, MachineError, TooLarge
from pandastack.host import frames
from pandastack.host.fields import (
    NUMBERS,
    Shape,
    Tag,
    Value,
    decode_fields,
    decode_items,
    encode_fields,
    environment,
)
from pandastack.host.frames import FROM_GUEST, FROM_HOST, HEAD, Data, Decoder, Frame, FrameType

EXACT = {
    FrameType.HELLO: 20,
    FrameType.SEAL: 0,
    FrameType.SEALED: 0,
    FrameType.PING: 8,
    FrameType.PONG: 8,
    FrameType.FREEZE: 4,
    FrameType.THAW: 0,
    FrameType.STILL: 4,
    FrameType.GO: 0,
    FrameType.EOF: 1,
    FrameType.CREDIT: 4,
    FrameType.RESIZE: 4,
    FrameType.SIGNAL: 1,
    FrameType.CLOSE: 1,
}
EVERYTHING = frozenset(FrameType)


@st.composite
def whole_frames(draw: st.DrawFn) -> Frame | Data:
    kind = draw(st.sampled_from(FrameType))
    stream = 0 if kind < FrameType.OPEN else draw(st.integers(1, 0xFFFFFFFF))
    if kind is FrameType.DATA:
        return Data(stream, draw(st.integers(0, 255)), draw(st.binary(min_size=1, max_size=300)))
    size = EXACT.get(kind)
    low, high = (0, 300) if size is None else (size, size)
    return Frame(kind, stream, draw(st.binary(min_size=low, max_size=high)))


def encoded(item: Frame | Data) -> bytes:
    if isinstance(item, Data):
        return frames.data_head(item.stream, item.channel, len(item.content)) + item.content
    return frames.encode(item.type, item.stream, item.payload)


def together(items: list[Frame | Data]) -> list[Frame | Data]:
    """The same with neighbouring pieces of one frame joined: DATA is passed on as it comes."""
    joined: list[Frame | Data] = []
    for item in items:
        last = joined[-1] if joined else None
        if (
            isinstance(item, Data)
            and isinstance(last, Data)
            and (last.stream, last.channel) == (item.stream, item.channel)
        ):
            joined[-1] = Data(item.stream, item.channel, last.content + item.content)
        else:
            joined.append(item)
    return joined


@given(st.lists(whole_frames(), max_size=8), st.data())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    items: list[Frame | Data], data: st.DataObject
) -> None:
    stream = b"".join(map(encoded, items))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = Decoder(EVERYTHING)
    found: list[Frame | Data] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert together(found) == together(items)


@given(st.lists(whole_frames(), max_size=4))
def test_single_bytes_are_enough(items: list[Frame | Data]) -> None:
    decoder = Decoder(EVERYTHING)
    found = [item for byte in b"".join(map(encoded, items)) for item in decoder.feed(bytes((byte,)))]
    assert together(found) == together(items)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_noise_is_decoded_or_refused_and_nothing_else(chunks: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for chunk in chunks:
            for item in decoder.feed(chunk):
                assert isinstance(item, Data) or item.type in FROM_GUEST
    except MachineError:
        return


def test_a_large_piece_is_passed_on_without_being_collected() -> None:
    decoder = Decoder()
    assert list(decoder.feed(frames.data_head(1, 1, 100_000))) == []
    chunk = bytes(60_000)
    (first,) = decoder.feed(chunk)
    assert isinstance(first, Data)
    assert first.content is chunk, "not even copied"
    assert [len(d.content) for d in decoder.feed(chunk[:40_000]) if isinstance(d, Data)] == [40_000]


@pytest.mark.parametrize("kind", sorted(EVERYTHING))
def test_each_side_may_send_its_own_frames_only(kind: FrameType) -> None:
    stream = 0 if kind < FrameType.OPEN else 1
    frame = frames.encode(kind, stream, bytes(EXACT.get(kind, 4)))
    for allowed in (FROM_GUEST, FROM_HOST):
        if kind in allowed:
            assert list(Decoder(allowed).feed(frame))
        else:
            with pytest.raises(MachineError, match="broke its protocol: a frame of type"):
                list(Decoder(allowed).feed(frame))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (HEAD.pack(4, 0x18, 1), "a frame of 4 bytes"),
        (HEAD.pack(0, 0x18, 1), "a frame of 0 bytes"),
        (HEAD.pack(frames.MAX_LENGTH + 1, 0x18, 1), "a frame of 1048577 bytes"),
        (HEAD.pack(5, 0x00, 1), "type 0x0"),
        (HEAD.pack(5, 0x1A, 1), "type 0x1a"),
        (HEAD.pack(5, 0x18, 0), "DONE on stream 0"),
        (HEAD.pack(5, 0x06, 7), "SEALED on stream 7"),
        (HEAD.pack(6, 0x06, 0), "SEALED of 6 bytes"),
        (HEAD.pack(9, 0x08, 0), "PONG of 9 bytes"),
        (HEAD.pack(8, 0x14, 1), "CREDIT of 8 bytes"),
        (HEAD.pack(5, 0x13, 1), "EOF of 5 bytes"),
        (HEAD.pack(6, 0x12, 1), "DATA without content"),
        (HEAD.pack(5, 0x12, 1), "DATA without content"),
    ],
)
def test_a_head_that_is_not_allowed_is_refused_before_its_payload_comes(raw: bytes, words: str) -> None:
    with pytest.raises(MachineError, match=words):
        list(Decoder().feed(raw))


def test_a_frame_may_be_as_large_as_the_limit_and_no_larger() -> None:
    largest = bytes(frames.MAX_LENGTH - 5)
    (frame,) = Decoder().feed(frames.encode(FrameType.ITEMS, 1, largest))
    assert frame == Frame(FrameType.ITEMS, 1, largest)
    with pytest.raises(TooLarge, match="1048577 bytes"):
        frames.encode(FrameType.OPEN, 1, largest + b"x")


@given(st.binary(max_size=100), st.binary(min_size=16, max_size=16))
def test_welcome_is_found_behind_anything(before: bytes, nonce: bytes) -> None:
    welcome = frames.encode(FrameType.WELCOME, 0, nonce + struct.pack("<I", 1))
    assert frames.find_welcome(before + welcome, nonce) == len(before)
    assert frames.find_welcome(before + welcome[: frames.WELCOME_HEAD - 1], nonce) == -1


# -- fields

WORDS = frozenset(set(Tag) - NUMBERS)
ANY = Shape(optional=frozenset(Tag))


@given(
    st.dictionaries(st.sampled_from(sorted(NUMBERS)), st.integers(0, (1 << 64) - 1)),
    st.dictionaries(
        st.sampled_from(sorted(WORDS)), st.text(st.characters(exclude_characters="\0", codec="utf-8"))
    ),
)
def test_fields_come_out_as_they_went_in(numbers: dict[Tag, int], words: dict[Tag, str]) -> None:
    pairs: list[tuple[Tag, Value]] = [*numbers.items(), *words.items()]
    fields = decode_fields(encode_fields(pairs), ANY)
    assert {tag: fields.number(tag) for tag in numbers} == numbers
    assert {tag: fields.text(tag) for tag in words} == words
    assert {tag for tag in Tag if tag in fields} == {*numbers, *words}


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=3)))
def test_items_come_out_in_order(items: list[list[str]]) -> None:
    payload = encode_fields((Tag.ITEM, encode_fields((Tag.ENV, text) for text in item)) for item in items)
    decoded = [*decode_items(payload, Shape(repeated=frozenset({Tag.ENV})))]
    assert [[text.decode() for text in item.many(Tag.ENV)] for item in decoded] == items


SHAPE = Shape(
    required=frozenset({Tag.ERRNO}), optional=frozenset({Tag.MESSAGE}), repeated=frozenset({Tag.ENV})
)
ERRNO = encode_fields([(Tag.ERRNO, 0)])
MESSAGE = encode_fields([(Tag.MESSAGE, "m")])


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "no ERRNO"),
        (MESSAGE, "no ERRNO"),
        (ERRNO + ERRNO, "a second ERRNO"),
        (ERRNO + MESSAGE + MESSAGE, "a second MESSAGE"),
        (ERRNO + encode_fields([(Tag.PID, 1)]), "PID where it does not belong"),
        (ERRNO + bytes((0x7E, 0, 0, 0, 0)), "tag 0x7e"),
        (ERRNO + bytes((0xFF, 0, 0, 0, 0)), "tag 0xff"),
        (ERRNO[:-1], "cut short"),
        (ERRNO + b"\x02\x01\x00\x00", "cut short"),
        (ERRNO + b"\x02\xff\xff\xff\xff", "cut short"),
        (struct.pack("<BI", Tag.ERRNO, 4) + bytes(4), "ERRNO of 4 bytes"),
        (struct.pack("<BI", Tag.ERRNO, 0), "ERRNO of 0 bytes"),
    ],
)
def test_fields_that_are_not_allowed_are_refused(payload: bytes, words: str) -> None:
    with pytest.raises(MachineError, match=words):
        decode_fields(payload, SHAPE)


@given(st.binary(max_size=200))
def test_noise_in_fields_is_decoded_or_refused(payload: bytes) -> None:
    try:
        decode_fields(payload, ANY)
        list(decode_items(payload, ANY))
    except MachineError:
        return


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        (Tag.PATH, "/a\0b", "the path must not contain a NUL"),
        (Tag.ARG, "\udc80", "the arg is not valid Unicode"),
        (Tag.OFFSET, -1, "the offset cannot be -1"),
        (Tag.TIMEOUT_MS, 1 << 64, "the timeout ms cannot be"),
    ],
)
def test_what_cannot_be_sent_is_the_callers_fault(tag: Tag, value: Value, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        encode_fields([(tag, value)])


def test_names_that_are_no_utf8_stay_readable() -> None:
    assert (
        decode_fields(encode_fields([(Tag.NAME, b"caf\xe9")]), ANY).text(Tag.NAME)
        == "caf\N{REPLACEMENT CHARACTER}"
    )


def test_an_environment_is_a_list_of_pairs() -> None:
    assert list(environment({"A": "1", "B": "x=y"})) == ["A=1", "B=x=y"]
    for name in ("", "A=B"):
        with pytest.raises(InvalidRequest, match="cannot be the name"):
            list(environment({name: "1"}))
