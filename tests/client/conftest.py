"""A server that is a function: httpx2's own transport seam, for both halves of the SDK."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from pandastack.client import Surroundings

Answer = httpx2.Response | Exception
NOWHERE = Surroundings({})


class Scripted:
    """Answers each request with the next line of its script and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx2.Request] = []
        self._script: list[Answer] = []

    def answers(self, *script: Answer) -> None:
        self._script += script

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        answer = self._script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def path(self, index: int = -1) -> str:
        """Method and address of a request."""
        request = self.asked[index]
        return f"{request.method} {request.url.raw_path.decode()}"


@pytest.fixture
def server() -> Scripted:
    return Scripted()


def sse(*records: tuple[str, str]) -> httpx2.Response:
    """An event stream."""
    text = "".join(f"event: {event}\ndata: {data}\n\n" for event, data in records)
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)


SANDBOX = {
    "id": "s1",
    "template": "base",
    "cpu": 1,
    "memory_mb": 256,
    "status": "running",
    "boot_ms": 42,
    "isolation": "emulated",
    "unheard_of": True,
}

Clock = Callable[[], float]
