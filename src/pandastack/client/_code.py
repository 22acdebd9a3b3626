"""What cells of code give back, and how a stream of one becomes that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from httpx2 import ServerSentEvent

from pandastack.client import _wire
from pandastack.client._errors import ExecInterrupted

DATA = "application/vnd.pandastack.data+json"
CHART = "application/vnd.pandastack.chart+json"


@dataclass(frozen=True)
class Result:
    """One rich output of a cell: a MIME bundle. Images are base64, what is JSON is its text.

    `is_main_result` tells the value of the cell's last expression from what it displayed. A result with a
    `display_id` takes the place of the one that the cell has displayed under it before.
    """

    data: dict[str, str]
    is_main_result: bool = False
    display_id: str | None = None

    @property
    def text(self) -> str | None:
        """As plain text."""
        return self.data.get("text/plain")

    @property
    def html(self) -> str | None:
        """As HTML: of a DataFrame its table."""
        return self.data.get("text/html")

    @property
    def markdown(self) -> str | None:
        """As Markdown."""
        return self.data.get("text/markdown")

    @property
    def latex(self) -> str | None:
        """As LaTeX."""
        return self.data.get("text/latex")

    @property
    def png(self) -> str | None:
        """As a PNG image."""
        return self.data.get("image/png")

    @property
    def jpeg(self) -> str | None:
        """As a JPEG image."""
        return self.data.get("image/jpeg")

    @property
    def svg(self) -> str | None:
        """As an SVG image."""
        return self.data.get("image/svg+xml")

    @property
    def json(self) -> Any:  # noqa: ANN401  # any JSON value
        """As the JSON value that it is."""
        return self._value("application/json")

    @property
    def table(self) -> dict[str, Any] | None:
        """The data of a DataFrame: `columns`, `index`, `data` (its first 1,000 rows), `dtypes`, `rows`,
        `truncated`.
        """
        return self._mapping(DATA)

    @property
    def chart_data(self) -> dict[str, Any] | None:
        """What a chart of matplotlib shows: `type`, `title`, `x_label`, `y_label`, `elements`."""
        return self._mapping(CHART)

    @property
    def chart(self) -> str | None:
        """Its image, of whatever kind."""
        return self.png or self.jpeg or self.svg

    def _value(self, kind: str) -> Any:  # noqa: ANN401  # any JSON value
        text = self.data.get(kind)
        try:
            return None if text is None else msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text

    def _mapping(self, kind: str) -> dict[str, Any] | None:
        value = self._value(kind)
        return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class CodeError:
    """What a cell raised."""

    name: str
    value: str
    traceback: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Execution:
    """A cell that has ended. `error` is the traceback as text, `error_detail` the same in its parts;
    `truncated` says that more was shown than is told here. Of `duration_ms` the kernel took `kernel_ms`.
    """

    results: list[Result] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    error: str | None = None
    exit_code: int = 0
    duration_ms: int = 0
    error_detail: CodeError | None = None
    execution_count: int = 0
    truncated: bool = False
    kernel_ms: float | None = None

    @property
    def logs(self) -> dict[str, str]:
        """What it has written."""
        return {"stdout": self.stdout, "stderr": self.stderr}

    @property
    def text(self) -> str | None:
        """The value of the cell as text, or the first result that has one."""
        first = sorted(self.results, key=lambda result: not result.is_main_result)
        return next((result.text for result in first if result.text is not None), None)

    @property
    def png(self) -> str | None:
        """The first PNG image."""
        return next((result.png for result in self.results if result.png is not None), None)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Execution:
        """Read the answer of any server."""
        main = data.get("main")
        bundles = [_bundle(item) for item in data.get("results") or [] if isinstance(item, dict)]
        return cls(
            results=[Result(bundle, place == main) for place, bundle in enumerate(bundles)],
            stdout=str(data.get("stdout") or ""),
            stderr=str(data.get("stderr") or ""),
            error=str(data["error"]) if data.get("error") else None,
            exit_code=int(data.get("exit", data.get("exit_code", 0)) or 0),
            duration_ms=int(data.get("duration_ms") or 0),
            error_detail=_detail(data.get("error_detail")),
            execution_count=int(data.get("execution_count") or 0),
            truncated=bool(data.get("truncated")),
            kernel_ms=data.get("kernel_ms"),
        )


ResultCallback = Callable[[Result], object]


class CellCapture:
    """Collects the records of a cell's stream, and tells the callbacks of each piece."""

    def __init__(
        self,
        on_stdout: _wire.OutputCallback | None,
        on_stderr: _wire.OutputCallback | None,
        on_result: ResultCallback | None,
    ) -> None:
        self._callbacks = {"stdout": on_stdout, "stderr": on_stderr}
        self._on_result = on_result
        self._pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._results: list[Result] = []
        self._error: Mapping[str, Any] = {}
        self._end: Mapping[str, Any] | None = None
        self._missed = False
        self.begun = False

    def begin(self) -> None:
        """The server has taken the cell."""
        self.begun = True

    def take(self, record: ServerSentEvent) -> None:
        """Take one record; raises the error that the server tells of, which is none of the cell's."""
        value = msgspec.json.decode(record.data) if record.data else {}
        if record.event == "error" and "error_detail" not in value:
            raise _wire.stream_error(value)
        if record.event in self._pieces:
            text = str(value.get("chunk", ""))
            self._pieces[record.event].append(text)
            if callback := self._callbacks[record.event]:
                callback(text)
        elif record.event in ("result", "update"):
            self._show(value, update=record.event == "update")
        elif record.event == "error":
            self._error = value
        elif record.event == "missed":
            self._missed = True
        elif record.event == "end":
            self._end = value

    def _show(self, value: Mapping[str, Any], *, update: bool) -> None:
        """One more result, or another content of those under its id; both are told."""
        result = Result(_bundle(value.get("data") or {}), bool(value.get("main")), value.get("display_id"))
        shown = enumerate(self._results) if update else ()
        places = [place for place, old in shown if old.display_id == result.display_id]
        for place in places:
            self._results[place] = replace(result, is_main_result=self._results[place].is_main_result)
        if not places:
            self._results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def result(self) -> Execution:
        """The outcome; ExecInterrupted when the stream ended without telling it."""
        if self._end is None:
            raise self.interrupted()
        return Execution(
            results=self._results,
            stdout="".join(self._pieces["stdout"]),
            stderr="".join(self._pieces["stderr"]),
            error=str(self._error["error"]) if self._error else None,
            exit_code=int(self._end.get("exit_code") or 0),
            duration_ms=int(self._end.get("duration_ms") or 0),
            error_detail=_detail(self._error.get("error_detail")),
            execution_count=int(self._end.get("execution_count") or 0),
            truncated=self._missed,
            kernel_ms=self._end.get("kernel_ms"),
        )

    def interrupted(self) -> ExecInterrupted:
        """The error of a stream that broke off."""
        return ExecInterrupted(
            "The stream ended before the cell did: the connection or the sandbox was lost.",
            partial_stdout="".join(self._pieces["stdout"]),
            partial_stderr="".join(self._pieces["stderr"]),
        )


def cell_body(code: str, timeout_seconds: float | None) -> dict[str, Any]:
    """The body of a request to run a cell; without a timeout the server's own counts."""
    body: dict[str, Any] = {"code": code}
    if timeout_seconds is not None:
        body["timeout_ms"] = round(timeout_seconds * 1000)
    return body


def _bundle(item: Mapping[str, Any]) -> dict[str, str]:
    if "type" in item and "data" in item:
        return {str(item["type"]): str(item["data"])}
    return {str(kind): value if isinstance(value, str) else str(value) for kind, value in item.items()}


def _detail(value: Mapping[str, Any] | None) -> CodeError | None:
    if not value:
        return None
    lines = [str(line) for line in value.get("traceback") or []]
    return CodeError(str(value.get("name") or ""), str(value.get("value") or ""), lines)
