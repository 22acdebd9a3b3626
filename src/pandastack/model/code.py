"""Cells of code and the contexts that they run in, as the wire carries them.

A context is a Jupyter kernel of a sandbox: what one cell leaves behind the next one finds. It is part of the
sandbox's memory, and so of its snapshots and forks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

TIMEOUT_MS = 30_000
"""How long a cell may run when nobody says; 0 is for ever."""

DATA = "application/vnd.pandastack.data+json"
"""The data of a table, as JSON: `columns`, `index`, `data` (rows, the first 1,000), `dtypes`, `rows` (how
many there are), `truncated`.
"""
CHART = "application/vnd.pandastack.chart+json"
"""What a chart shows, as JSON: `type` (line, scatter, bar, pie, box_and_whisker, superchart), `title`,
`x_label`, `y_label`, `elements`.
"""


class ContextRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `repl/sessions`: the language of a new context."""

    language: Annotated[str, Meta(min_length=1, max_length=64)] = "python"


class CellRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `run` and `run/stream`: a cell, and how long it may run (30 s when nothing is said, 0 for
    ever). At its deadline it is interrupted, and the context stays.
    """

    code: str
    timeout_ms: Annotated[int, Meta(ge=0, le=604_800_000)] = TIMEOUT_MS


class SnippetRequest(CellRequest, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `repl`: a cell in a context of its own, which is gone behind it."""

    language: Annotated[str, Meta(min_length=1, max_length=64)] = "python"


class CodeContext(Struct, frozen=True):
    """A context. `cells` is how many this server has seen it run."""

    id: str
    sandbox_id: str
    language: str
    created_at: datetime
    cells: int = 0


class CellError(Struct, frozen=True):
    """What a cell raised: the name of the exception, its words, and the traceback by its lines."""

    name: str
    value: str
    traceback: tuple[str, ...]

    def formatted(self) -> str:
        """The traceback, as people read it."""
        return "\n".join(self.traceback) or f"{self.name}: {self.value}"


class Text(Struct, frozen=True):
    """A piece of what a cell writes."""

    channel: Literal["stdout", "stderr"]
    text: str


class Shown(Struct, frozen=True):
    """A result: a MIME bundle, images in base64, JSON as text. `main` is the value of the cell itself, others
    it has displayed. With `update` it takes the place of those that were displayed under its `display_id`.
    """

    data: dict[str, str]
    main: bool = False
    display_id: str | None = None
    update: bool = False


class Missed(Struct, frozen=True):
    """Something that was too large to be taken, in bytes."""

    size: int


class CellEnd(Struct, frozen=True):
    """A cell has ended. `exit_code` is 0 without an error; of a shell's cell, its status. `duration_ms` is
    the server's view, `kernel_ms` what the kernel itself took, by its own clock (none when it does not say).
    """

    exit_code: int
    execution_count: int
    duration_ms: int = 0
    kernel_ms: float | None = None


CellEvent = Text | Shown | Missed | CellError | CellEnd


class CellResult(Struct, frozen=True):
    """A cell from its beginning to its end.

    `results` are MIME bundles in their order (`main` says which of them is the value of the cell itself),
    `error` is the traceback as text and `error_detail` the same in its parts. `truncated` says that more came
    than is kept: of a text the end is, of results the beginning.
    """

    stdout: str
    stderr: str
    results: tuple[dict[str, str], ...]
    main: int | None
    error: str | None
    error_detail: CellError | None
    exit: int
    exit_code: int
    execution_count: int
    duration_ms: int
    language: str
    truncated: bool = False
    kernel_ms: float | None = None
