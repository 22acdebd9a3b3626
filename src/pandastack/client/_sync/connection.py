# Made from `../_async/connection.py` by `scripts/unasync`: change that file.
"""One server, one credential, one pool of connections: calls in, values or errors out.

Everything above speaks to `Connection`; everything below is httpx2, whose transport is the seam to swap.
"""

from __future__ import annotations

import itertools
import logging
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2
import msgspec

from pandastack.client import _retry, _wire
from pandastack.client._builds import Part
from pandastack.client._config import Settings
from pandastack.client._errors import ConnectionError, CreateCancelled, PandastackError
from pandastack.client._pair import check_cancel, pause
from pandastack.client._retry import CreateRetryEvent, Refusal
from pandastack.client._wire import JSON, Call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandastack.client._pair import CancelEvent

KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
]
"""A server whose machine is gone is noticed within 35 s, however long the answer may take."""

_log = logging.getLogger("pandastack.client")


class Connection:
    """Sends calls to one server.

    Errors: AuthError before anything is sent when there is no key; ConnectionError when the server cannot be
    reached or goes away; else the error of the server's answer. Environment proxies are not used: give a
    transport for one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float], float] = lambda cap: random.uniform(0.0, cap),  # noqa: S311  # spreads load
    ) -> None:
        self.settings = settings
        self.timeout = settings.timeout
        self.preview_host = settings.preview_host
        self.on_create_retry: Callable[[CreateRetryEvent], None] | None = None
        self.clock = clock
        self._jitter = jitter
        self._http = httpx2.Client(
            transport=transport or _default_transport(settings.api_url),
            headers={"Accept": "application/json", "User-Agent": _wire.USER_AGENT},
        )

    def close(self) -> None:
        """Close every connection; the object is of no use afterwards."""
        self._http.close()

    def request(self, call: Call) -> JSON:
        """Send a call and read its answer: the JSON value, None when the answer is empty."""
        return _read(self._send(call))

    def send_form(self, path: str, fields: dict[str, str], parts: Sequence[Part]) -> JSON:
        """Send a form, with its files if it has any, and read the answer."""
        files = [(part.field, (part.name, part.file, "application/octet-stream")) for part in parts]
        call = Call(method="POST", path=path, read_timeout=_wire.UPLOAD_SECONDS)
        with self._foreign_errors():
            request = self._http.build_request(
                call.method,
                _wire.url_of(self.settings.api_url, call.path),
                data=fields,
                files=files or None,
                headers=_wire.auth_headers(self.settings.api_key),
                timeout=self._patience(call),
            )
            return _read(self._http.send(request))

    def fetch(self, call: Call) -> bytes:
        """Send a call and give the body as it came."""
        response = self._send(call)
        _raise_for(response)
        return response.content

    def make(self, call: Call) -> JSON:
        """Send a call that makes something, with an Idempotency-Key: however often it is sent again on the
        way, it makes one.
        """
        return self.request(_keyed(call))

    def create(self, call: Call, *, cancel: CancelEvent | None = None) -> JSON:
        """Send a call that makes something, again and again while the server refuses it for lack of room.

        All attempts carry one Idempotency-Key. Nothing is sent once `cancel` is set: CreateCancelled.
        """
        check_cancel(cancel)
        call = _keyed(call)
        started = self.clock()
        refusal: PandastackError | None = None
        for attempt in itertools.count():
            if cancel is not None and cancel.is_set():
                raise _cancelled(attempt) from refusal
            response = self._send(call)
            event = self._next_attempt(call, response, attempt, self.clock() - started)
            if event is None:
                return _read(response)
            refusal = _error_of(response)
            if cancel is None or not cancel.is_set():
                self._announce(event)
                pause(event.delay_seconds, cancel)
        raise AssertionError("count() has no end")

    @contextmanager
    def stream(
        self, call: Call, *, content: Iterator[bytes] | bytes | None = None
    ) -> Iterator[httpx2.Response]:
        """Send a call, with a body that may be large, and read its answer piece by piece inside the block.

        What goes wrong while it is read is a ConnectionError too.
        """
        request = self._request(call, content=content)
        with self._foreign_errors():
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise _error_of(response)
                yield response
            finally:
                response.close()

    @contextmanager
    def events(self, call: Call) -> Iterator[httpx2.EventSource]:
        """The records of an event stream, as they come, inside the block."""
        headers = {**call.headers, "Accept": "text/event-stream"}
        call = msgspec.structs.replace(
            call, headers=headers, read_timeout=call.read_timeout or _wire.STREAM_GAP_SECONDS
        )
        with self.stream(call) as response:
            yield httpx2.EventSource(response)

    def _send(self, call: Call) -> httpx2.Response:
        with self._foreign_errors():
            return self._http.send(self._request(call))

    def _request(self, call: Call, content: Iterator[bytes] | bytes | None = None) -> httpx2.Request:
        headers = {**_wire.auth_headers(self.settings.api_key), **call.headers}
        if call.json is not None:
            content = msgspec.json.encode(call.json)
            headers["Content-Type"] = "application/json"
        return self._http.build_request(
            call.method,
            _wire.url_of(self.settings.api_url, call.path),
            params=call.params or None,
            content=content,
            headers=headers,
            timeout=self._patience(call),
        )

    def _patience(self, call: Call) -> httpx2.Timeout:
        silence = call.read_timeout or self.timeout
        return httpx2.Timeout(connect=_wire.CONNECT_SECONDS, read=silence, write=silence, pool=None)

    def _next_attempt(
        self, call: Call, response: httpx2.Response, attempt: int, elapsed: float
    ) -> CreateRetryEvent | None:
        """The repetition that this answer calls for; None when the answer stands."""
        if response.is_success:
            return None
        refusal = _refusal_of(response)
        delay = _retry.delay_before_retry(
            refusal,
            attempt=attempt,
            elapsed=elapsed,
            budget=self.settings.create_retry_seconds,
            jitter=self._jitter,
        )
        if delay is None:
            return None
        return CreateRetryEvent(
            method=call.method,
            path=call.path,
            attempt=attempt + 1,
            status_code=refusal.status,
            error=refusal.error,
            delay_seconds=delay,
            elapsed_seconds=elapsed,
            retry_after_seconds=refusal.retry_after,
        )

    def _announce(self, event: CreateRetryEvent) -> None:
        _log.info(
            "%s %s was refused (HTTP %d: %s); attempt %d follows in %.1f s",
            event.method,
            event.path,
            event.status_code,
            event.error,
            event.attempt + 1,
            event.delay_seconds,
        )
        if self.on_create_retry is not None:
            self.on_create_retry(event)

    @contextmanager
    def _foreign_errors(self) -> Iterator[None]:
        server = self.settings.api_url
        try:
            yield
        except httpx2.ConnectError as error:
            raise ConnectionError(
                f"No PandaStack server answers at {server} ({error}). "
                "Start one with `pandastack up`, or set PANDASTACK_API."
            ) from error
        except httpx2.TimeoutException as error:
            raise ConnectionError(f"{server} did not answer in time ({type(error).__name__}).") from error
        except httpx2.RequestError as error:
            raise ConnectionError(f"The connection to {server} broke: {error}") from error


def _default_transport(api_url: str) -> httpx2.HTTPTransport:
    # Reading the certificates of the system takes tens of milliseconds; plain HTTP needs none.
    return httpx2.HTTPTransport(
        verify=api_url.startswith("https:"),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
        socket_options=KEEP_ALIVE,
    )


def _keyed(call: Call) -> Call:
    return msgspec.structs.replace(call, headers={**call.headers, "Idempotency-Key": uuid.uuid4().hex})


def _read(response: httpx2.Response) -> JSON:
    _raise_for(response)
    return _wire.decode(response.content, response.headers.get("content-type", ""))


def _raise_for(response: httpx2.Response) -> None:
    if not response.is_success:
        raise _error_of(response)


def _error_of(response: httpx2.Response) -> PandastackError:
    return _wire.error_of(response.status_code, response.content, response.headers.get("content-type", ""))


def _refusal_of(response: httpx2.Response) -> Refusal:
    body = _wire.decode(response.content, response.headers.get("content-type", ""))
    error = body.get("error") if isinstance(body, dict) else None
    retry_after = _retry.parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
    return Refusal(response.status_code, retry_after, error.strip() if isinstance(error, str) else "")


def _cancelled(refusals: int) -> CreateCancelled:
    if refusals == 0:
        return CreateCancelled("The create was cancelled before it was sent.")
    return CreateCancelled(f"The create was cancelled after {refusals} refusals for lack of room.")
