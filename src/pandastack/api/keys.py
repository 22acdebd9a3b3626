"""Idempotency-Keys over HTTP: a header of the request, and one of the answer."""

from __future__ import annotations

from typing import TypeVar

from pandastack.api.calls import Api
from pandastack.endpoint import Reply
from pandastack.errors import InvalidRequest
from pandastack.services.keys import Made

Body = TypeVar("Body")
Query = TypeVar("Query")
T = TypeVar("T")

KEY_LENGTH = 255


def key_of(call: Api[Body, Query]) -> str | None:
    """The key of a request; None for one without. Errors: InvalidRequest."""
    key = call.connection.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= KEY_LENGTH:
        raise InvalidRequest(f"An Idempotency-Key has 1 to {KEY_LENGTH} characters.")
    return key


def created(made: Made[T], answer: object) -> Reply:
    """The answer of what makes something; one that is given again says so."""
    return Reply(answer, 201, {"idempotent-replayed": "true"} if made.replayed else {})
