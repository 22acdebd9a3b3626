"""A large file into a sandbox and out again: whether it is the same, how fast, what the server needs."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from benchmarks.api import Api, answer_of
from benchmarks.memory import forget_peak, memory_of, peak_of
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, at_most, none_of

MIB = 1 << 20
MB = 1_000_000
LIMIT_MB = 32.0
PATH = "/root/large.bin"

HOW = (
    "So many MiB that do not compress are sent as one file, then read back and compared by SHA-256. The"
    " server's growth is the kernel's own high-water mark of each way, less its resident memory before "
    "it. MB are 10⁶ bytes."
)


class Passage(Struct, frozen=True):
    """One way: seconds, the server's growth in bytes at its peak, and the digest of what passed."""

    seconds: float
    growth: int
    digest: str


def measure(stage: Stage, count: int) -> Answer:
    """Send and fetch `count` MiB."""
    with stage.api.sandbox() as sandbox_id:
        url = f"/v1/sandboxes/{sandbox_id}/fs"
        up = _passage(stage, count, "up", lambda passed: _send(stage.api, url, count, passed))
        down = _passage(stage, count, "down", lambda passed: _fetch(stage.api, url, passed))
        answer_of(stage.api.client.delete(url, params={"path": PATH}))
    return Answer(
        how=HOW,
        bars=[
            none_of("digests that differ", int(up.digest != down.digest)),
            at_most("server's growth on the way up", up.growth / MB, LIMIT_MB, "MB"),
            at_most("server's growth on the way down", down.growth / MB, LIMIT_MB, "MB"),
        ],
        facts={
            "size": f"{count} MiB",
            "up, MB a second": round(count * MIB / MB / up.seconds, 1),
            "down, MB a second": round(count * MIB / MB / down.seconds, 1),
            "up, seconds": round(up.seconds, 2),
            "down, seconds": round(down.seconds, 2),
            "SHA-256": up.digest,
        },
    )


def _passage(stage: Stage, count: int, what: str, carry: Callable[[Callable[[int], None]], str]) -> Passage:
    before = memory_of(stage.server.pid).rss
    forget_peak(stage.server.pid)
    began = time.perf_counter()
    with stage.transfer(what, count * MIB) as passed:
        digest = carry(passed)
    return Passage(time.perf_counter() - began, peak_of(stage.server.pid) - before, digest)


def _send(api: Api, url: str, count: int, passed: Callable[[int], None]) -> str:
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        for piece in pieces(count):
            digest.update(piece)
            passed(len(piece))
            yield piece

    size = {"Content-Length": str(count * MIB), "Content-Type": "application/octet-stream"}
    answer_of(api.client.put(url, params={"path": PATH}, content=body(), headers=size))
    return digest.hexdigest()


def _fetch(api: Api, url: str, passed: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with api.client.stream("GET", url, params={"path": PATH}) as response:
        if not response.is_success:
            response.read()
            answer_of(response)
        for piece in response.iter_bytes():
            digest.update(piece)
            passed(len(piece))
    return digest.hexdigest()


def pieces(count: int) -> Iterator[bytes]:
    """`count` MiB, the same ones every time, no two alike."""
    noise = random.Random(count).randbytes(MIB - 8)  # noqa: S311  # nothing here is secret
    for number in range(count):
        yield number.to_bytes(8, "big") + noise


QUESTION = Question("a large file up and down", measure, count=1024, quick=32)
