"""Records of streams: compact, one line, and never half a character."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pandastack.api.streams import Text, record
from pandastack.model.guest import Channel, Output
from pandastack.services.commands import Tail


def test_a_record_is_compact_json_on_one_line() -> None:
    assert record("exit", {"exit_code": 0}) == b'event: exit\ndata: {"exit_code":0}\n\n'
    assert record("stdout", {"chunk": "a\nb"}) == b'event: stdout\ndata: {"chunk":"a\\nb"}\n\n'


@given(st.text(), st.lists(st.integers(0, 50), max_size=10))
def test_text_cut_anywhere_comes_whole(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "surrogatepass")
    decoded, places = Text(), sorted({min(cut, len(data)) for cut in cuts})
    edges = [0, *places, len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    chunks = [decoded.of(Output(Channel.STDOUT, piece)) for piece in pieces]
    chunks += [rest for _, rest in decoded.rest()]
    assert "".join(chunks) == data.decode("utf-8", "replace")


def test_channels_do_not_mix() -> None:
    text = Text()
    assert text.of(Output(Channel.STDOUT, b"\xe2\x82")) == ""
    assert text.of(Output(Channel.STDERR, b"x")) == "x"
    assert text.of(Output(Channel.STDOUT, b"\xac")) == "€"
    assert text.rest() == []


def test_what_is_left_incomplete_is_told_at_the_end() -> None:
    text = Text()
    text.of(Output(Channel.STDERR, b"\xe2\x82"))
    assert text.rest() == [(Channel.STDERR, "\N{REPLACEMENT CHARACTER}")]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 60))
def test_a_tail_is_the_last_bytes_and_says_when_there_were_more(parts: list[bytes], limit: int) -> None:
    tail = Tail(limit)
    for part in parts:
        tail.add(part)
    whole = b"".join(parts)
    assert tail.text() == whole[-limit:].decode("utf-8", "replace")
    assert tail.cut == (len(whole) > limit)
