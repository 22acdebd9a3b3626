"""`docs/reference/errors.md`: every code of the wire."""

from __future__ import annotations

from collections.abc import Iterator

from pandastack import endpoint
from pandastack.errors import PandastackError
from reference.markdown import code, document, table, words_of

WORDS = """Every error of the server is a JSON object: `error` is a sentence for a person, `code` is for
programs.

```json
{"error": "There is no sandbox 7c9e.", "code": "sandbox.not_found", "retryable": false, "request_id": "5f0c"}
```

When `retryable` is true the same request may be sent again; `Retry-After` says when. `details`, if there are
any, hold more for programs, for example the last console lines of a machine that did not come up. The SDK
raises the class of the last column; what programs written for the official SDK call it stands in
[the Python reference](python.md)."""

OWN_MODULES = ("pandastack.errors", endpoint.__name__)


def page() -> str:
    """The whole page."""
    kinds = [kind for kind in _tree(PandastackError) if kind.__module__ in OWN_MODULES]
    kinds = [kind for kind in kinds if "code" in vars(kind) and kind is not PandastackError]
    kinds.sort(key=lambda kind: (kind.status, kind.code))
    rows = [
        (str(kind.status), code(kind.code), _again(kind), words_of(kind), code(kind.__name__))
        for kind in kinds
    ]
    return document("Errors", WORDS, table(("HTTP", "code", "again", "", "class"), rows))


def _again(kind: type[PandastackError]) -> str:
    if not kind.retryable:
        return ""
    return f"after {kind.retry_after:g} s" if kind.retry_after else "yes"


def _tree(root: type[PandastackError]) -> Iterator[type[PandastackError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)
