"""The best of several attempts, as values and pure functions: what is tried, how it went, which one wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Any, Generic, TypeVar

from pandastack.client._errors import PandastackError

S = TypeVar("S")

MOST_BRANCHES = 16
"""Children that a server makes in one call."""

CONCURRENCY = 4
TAIL_CHARACTERS = 4096
MOST_FILES = 200
SIDE_SECONDS = 10.0
"""Deadline of the commands that find out which files a branch has changed."""

MARKER = "/tmp/.pandastack-explore-marker"  # noqa: S108  # a path of the guest
WATCHED = "/app /work /root /home"


@dataclass(frozen=True)
class BranchOutcome:
    """How one candidate fared in its fork.

    `value` is what its function returned, `error` why it broke off.
    """

    label: str
    sandbox_id: str
    ok: bool
    score: float
    exit_code: int | None
    stdout_tail: str
    stderr_tail: str
    files_changed: list[str]
    duration_ms: int
    value: Any = None
    error: str | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class Candidate(Generic[S]):
    """One attempt: a line for the shell, or a function of the forked sandbox. A `score` in it is final."""

    label: str
    cmd: str | None = None
    fn: Callable[[S], Any] | None = None
    timeout_s: float = 60.0
    env: dict[str, str] | None = None
    score: float | None = None

    @classmethod
    def shell(
        cls,
        label: str,
        cmd: str,
        *,
        timeout_s: float = 60.0,
        env: dict[str, str] | None = None,
        score: float | None = None,
    ) -> Candidate[S]:
        """An attempt that is a line for the shell."""
        return cls(label, cmd, timeout_s=timeout_s, env=env, score=score)

    @classmethod
    def call(
        cls,
        label: str,
        fn: Callable[[S], Any],
        *,
        timeout_s: float = 60.0,
        env: dict[str, str] | None = None,
        score: float | None = None,
    ) -> Candidate[S]:
        """An attempt that is a function of the forked sandbox; it succeeds when it returns."""
        return cls(label, fn=fn, timeout_s=timeout_s, env=env, score=score)


@dataclass(frozen=True)
class ExploreResult(Generic[S]):
    """The attempts, the best first, and the winner's sandbox. `winner` is None when nothing was promoted."""

    winner: S | None
    winner_outcome: BranchOutcome | None
    outcomes: list[BranchOutcome]
    tree_id: str
    reaped: list[str] = field(default_factory=list)
    reap_failures: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """What went wrong without ending it: a child that did not come up, a promotion that was refused."""

    def best(self, n: int = 1) -> list[BranchOutcome]:
        """The `n` best attempts."""
        return self.outcomes[:n]

    def table(self) -> str:
        """The attempts as lines for a person; the winner's begins with a star."""
        rows = [("", "candidate", "score", "exit", "ms", "files")]
        for each in self.outcomes:
            won = self.winner_outcome is not None and each.sandbox_id == self.winner_outcome.sandbox_id
            ended = each.error or str(each.exit_code if each.exit_code is not None else "")
            files, took = str(len(each.files_changed)), str(each.duration_ms)
            rows.append(("*" if won else "", each.label[:40], f"{each.score:g}", ended[:40], took, files))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        )
        return "\n".join(line.rstrip() for line in lines)


class ExploreError(PandastackError):
    """No attempt can win, or there is nothing to try. `outcomes` says how each one fared."""

    code = "client.explore"

    def __init__(self, message: str, outcomes: Sequence[BranchOutcome] = ()) -> None:
        super().__init__(message)
        self.outcomes = list(outcomes)


Picker = Callable[[list[BranchOutcome]], BranchOutcome]
"""Chooses among the attempts that may win, the best first."""


def candidates_of(given: Iterable[Candidate[S] | str]) -> list[Candidate[S]]:
    """The candidates, a bare string being a line for the shell; ExploreError for none and for too many."""
    found: list[Candidate[S]] = [Candidate(each, each) if isinstance(each, str) else each for each in given]
    if not found:
        raise ExploreError("explore was given no candidates.")
    if len(found) > MOST_BRANCHES:
        raise ExploreError(
            f"explore was given {len(found)} candidates; a tree has at most {MOST_BRANCHES} branches: "
            "go in rounds."
        )
    for each in found:
        if (each.cmd is None) == (each.fn is None):
            raise ExploreError(f"The candidate {each.label!r} takes either a cmd or a fn.")
    return found


def check_select(select: str | Picker) -> None:
    """ValueError for a way to choose that does not exist."""
    if not callable(select) and select not in ("max", "min"):
        raise ValueError(f'select is "max", "min" or a function, not {select!r}.')


def index_of(metadata: Mapping[str, str], place: int) -> int:
    """Which candidate a child was made for: what it says itself, else its place among the children."""
    told = metadata.get("fork_index", "")
    return int(told) if told.isdecimal() else place


def watched(capture_files: bool | str) -> str:
    """The directories whose changes are told, as words of a shell line; nothing for none."""
    if isinstance(capture_files, str):
        return quote(capture_files)
    return WATCHED if capture_files else ""


def marking() -> str:
    """The shell line that notes the moment before an attempt."""
    return f"touch {MARKER}"


def finding(roots: str) -> str:
    """The shell line that lists what has changed since."""
    return f"find {roots} -type f -newer {MARKER} 2>/dev/null | head -n {MOST_FILES}"


def tail(text: str) -> str:
    """The end of an output."""
    return text[-TAIL_CHARACTERS:]


def ranked(
    outcomes: Iterable[BranchOutcome], select: str | Picker, *, require_success: bool
) -> list[BranchOutcome]:
    """The best first, by their score; where only success may win, those that succeeded before the others."""
    sign = 1.0 if select == "min" else -1.0
    return sorted(outcomes, key=lambda each: (require_success and not each.ok, sign * each.score))


def chosen(outcomes: list[BranchOutcome], select: str | Picker, *, require_success: bool) -> BranchOutcome:
    """The winner among ranked outcomes; ExploreError when none may win."""
    viable = [outcome for outcome in outcomes if outcome.ok or not require_success]
    if not viable:
        told = ", ".join(f"{each.label}: {each.error or f'exit code {each.exit_code}'}" for each in outcomes)
        raise ExploreError(f"None of {len(outcomes)} branches succeeded ({told}).", outcomes)
    return select(viable) if callable(select) else viable[0]
