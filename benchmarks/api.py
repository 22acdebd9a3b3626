"""The client of the benchmarks: HTTP over kept connections, every answer with the time it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import msgspec

from pandastack.testing.server import Server

JSON = dict[str, Any]
TIMEOUT = httpx2.Timeout(connect=10.0, read=300.0, write=60.0, pool=None)
TEMPLATE = "base"
IDLE_SECONDS = 3600
"""How long a sandbox of a benchmark may idle: longer than any question takes."""

CREATE = {"template": TEMPLATE, "ttl_seconds": IDLE_SECONDS}


class Refused(Exception):
    """The server did not do what it was asked."""


class Api:
    """What the questions ask of a server. Times are milliseconds, from the call to the whole answer.

    Errors of all verbs: Refused, and httpx2's own when the server cannot be reached.
    """

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def create(self, **wishes: object) -> tuple[JSON, float]:
        """A sandbox, the same each time but for what is wished."""
        return self._timed("POST", "/v1/sandboxes", CREATE | wishes)

    def order(self, sandbox_id: str, verb: str, **body: object) -> tuple[JSON, float]:
        """Have something done with a sandbox."""
        return self._timed("POST", f"/v1/sandboxes/{sandbox_id}/{verb}", body or None)

    def exec(self, sandbox_id: str, *words: str) -> tuple[JSON, float]:
        """A command that succeeds; without a shell."""
        answer, elapsed = self._timed("POST", f"/v1/sandboxes/{sandbox_id}/exec", {"cmd": list(words)})
        if answer["exit_code"] != 0:
            raise Refused(f"{' '.join(words)} ended with {answer['exit_code']}: {answer['stderr']}")
        return answer, elapsed

    def delete(self, sandbox_id: str) -> float:
        """The end of a sandbox."""
        return self._timed("DELETE", f"/v1/sandboxes/{sandbox_id}")[1]

    def drop(self, snapshot_id: str) -> float:
        """The end of a snapshot."""
        return self._timed("DELETE", f"/v1/snapshots/{snapshot_id}")[1]

    def get(self, path: str) -> JSON:
        """Something to read."""
        return self._timed("GET", path)[0]

    def write(self, sandbox_id: str, path: str, content: bytes) -> None:
        """A file of a sandbox."""
        url, where = f"/v1/sandboxes/{sandbox_id}/fs", {"path": path}
        answer_of(self.client.put(url, params=where, content=content))

    def browser(self, sandbox_id: str) -> tuple[JSON, float]:
        """Links to the browser of a sandbox."""
        return self._timed("GET", f"/v1/sandboxes/{sandbox_id}/browser")

    @contextmanager
    def sandbox(self, **wishes: object) -> Iterator[str]:
        """The id of a sandbox that lives as long as the block."""
        sandbox_id = self.create(**wishes)[0]["id"]
        try:
            yield sandbox_id
        finally:
            self.delete(sandbox_id)

    def _timed(self, method: str, path: str, body: JSON | None = None) -> tuple[JSON, float]:
        content = None if body is None else msgspec.json.encode(body)
        began = time.perf_counter()
        response = self.client.request(method, path, content=content)
        elapsed = (time.perf_counter() - began) * 1000
        return answer_of(response), elapsed


def answer_of(response: httpx2.Response) -> JSON:
    """The JSON object of an answer, empty when it has none; Refused when it is an error."""
    if not response.is_success:
        request = response.request
        raise Refused(f"{request.method} {request.url.path}: {response.status_code} {response.text[:500]}")
    return msgspec.json.decode(response.content, type=JSON) if response.content else {}


@contextmanager
def connected(server: Server) -> Iterator[Api]:
    """A client of a server."""
    with httpx2.Client(
        base_url=server.url, headers=headers(server), timeout=TIMEOUT, trust_env=False
    ) as client:
        yield Api(client)


def headers(server: Server) -> dict[str, str]:
    """What every request to this server carries."""
    return {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
