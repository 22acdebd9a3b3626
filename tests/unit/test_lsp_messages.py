"""Messages of the Language Server Protocol are found in bytes, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.client._errors import ConnectionError
from pandastack.client._lsp import HEAD_MOST, Messages, framed

SAID: list[dict[str, object]] = [{"id": 1, "result": "ä" * 50}, {"method": "exit"}, {"params": {"a": [None]}}]
BYTES = b"".join(map(framed, SAID))


@given(st.lists(st.integers(0, len(BYTES)), max_size=8))
def test_pieces_of_any_size_become_the_messages(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(BYTES)]
    messages = Messages()
    found = [one for start, end in pairwise(places) for one in messages.add(BYTES[start:end])]
    assert found == [{"jsonrpc": "2.0", **one} for one in SAID]


def test_other_headers_are_passed_over() -> None:
    head = b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\ncontent-length: 8\r\n\r\n"
    assert Messages().add(head + b'{"id":1}') == [{"id": 1}]


@pytest.mark.parametrize(
    "said",
    [
        b"no header at all" * HEAD_MOST,
        b"Content-Type: x\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: 99999999999\r\n\r\n{}",
        b"Content-Length: 4\r\n\r\n[1,]",
        b"Content-Length: 2\r\n\r\n[]",
    ],
)
def test_what_is_not_the_protocol_is_an_error(said: bytes) -> None:
    with pytest.raises(ConnectionError):
        Messages().add(said)


@given(st.binary(max_size=300))
def test_no_bytes_do_other_harm(said: bytes) -> None:
    try:
        Messages().add(said)
    except ConnectionError as error:
        assert str(error)
