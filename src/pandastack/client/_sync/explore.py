# Made from `../_async/explore.py` by `scripts/unasync`: change that file.
"""`sandbox.explore()`: several attempts at once, each in a fork of its own; the best one is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from pandastack.client import _explore
from pandastack.client._errors import NotFoundError, PandastackError, SandboxTimeout
from pandastack.client._explore import BranchOutcome, Candidate, ExploreResult, Picker
from pandastack.client._lineage import ForkTree
from pandastack.client._pair import each, settled
from pandastack.client._sync.fork import ForkVerbs


class ExploreVerbs(ForkVerbs):
    """The verb of a sandbox that tries several ways on."""

    def explore(  # noqa: PLR0913  # the official SDK's signature
        self,
        candidates: Sequence[Candidate[Any] | str],
        *,
        score_fn: Callable[[Self, BranchOutcome], Any] | None = None,
        select: str | Picker = "max",
        require_success: bool = True,
        max_concurrency: int | None = None,
        cleanup_losers: bool = True,
        promote_winner: bool = True,
        capture_files: bool | str = True,
        ttl_seconds: int = 600,
        on_outcome: Callable[[BranchOutcome], object] | None = None,
    ) -> ExploreResult[Self]:
        """Try each candidate in a fork of this sandbox, promote the best one and end the others.

        A candidate is a line for the shell or a `Candidate`; there are at most 16, and `max_concurrency` (4)
        of them run at a time. `score_fn(sandbox, outcome)` gives a number for each that ended by itself; by
        default success is 1 and failure 0. `select` is "max", "min", or a function that is given the
        outcomes that may win, the best first, and returns one; only successful ones may, unless
        `require_success` is False. `capture_files` names a directory whose changed files each outcome tells;
        False for none. Forks end by themselves after idling for `ttl_seconds`, should this program die; the
        winner keeps that limit until `set_ttl` changes it.

        Errors: ExploreError when there is nothing to try or none may win; whatever is raised, no fork is
        left, unless `cleanup_losers` is False.

        Example: `sandbox.explore(["python3 greedy.py", "python3 exact.py"]).winner`
        """
        wanted = _explore.candidates_of(candidates)
        _explore.check_select(select)
        metadata = {"explore": "1", "explore_ttl": str(ttl_seconds)}
        tree = self.fork_tree(len(wanted), metadata, ttl_seconds=ttl_seconds)
        trial: Trial[Self] = Trial(score_fn, _explore.watched(capture_files), on_outcome)
        try:
            branches = [
                (child, wanted[_explore.index_of(child.metadata, place)]) for place, child in enumerate(tree)
            ]
            done = each(trial.run, branches, max_concurrency or _explore.CONCURRENCY)
            outcomes = _explore.ranked(done, select, require_success=require_success)
            won = _explore.chosen(outcomes, select, require_success=require_success)
        except BaseException:
            if cleanup_losers:
                _reap(tree)
            raise
        return _settle(tree, outcomes, won, cleanup=cleanup_losers, promote=promote_winner)


S = TypeVar("S", bound=ExploreVerbs)


def explore(
    sandbox: S,
    candidates: Sequence[Candidate[Any] | str],
    **options: Any,  # noqa: ANN401  # those of the verb, whose signature names them
) -> ExploreResult[S]:
    """Try each candidate in a fork of the sandbox: the same as `sandbox.explore`."""
    return sandbox.explore(candidates, **options)


@dataclass(frozen=True)
class Trial(Generic[S]):
    """Runs one candidate in its fork and tells how it went, whatever it does."""

    score_fn: Callable[[S, BranchOutcome], Any] | None
    roots: str
    on_outcome: Callable[[BranchOutcome], object] | None

    def run(self, branch: tuple[S, Candidate[S]]) -> BranchOutcome:
        """The outcome, scored and told."""
        child, candidate = branch
        clock = child._connection.clock
        began = clock()
        try:
            outcome = self._tried(child, candidate)
        except Exception as error:  # whatever an attempt does wrong is its outcome
            late = isinstance(error, SandboxTimeout)
            outcome = replace(_blank(child, candidate), error=_sentence(error), timed_out=late)
        outcome = replace(outcome, duration_ms=round((clock() - began) * 1000))
        outcome = self._scored(child, candidate, outcome)
        if self.on_outcome is not None:
            settled(self.on_outcome(outcome))
        return outcome

    def _tried(self, child: S, candidate: Candidate[S]) -> BranchOutcome:
        if self.roots:
            _aside(child, _explore.marking())
        blank = _blank(child, candidate)
        if candidate.fn is not None:
            outcome = replace(blank, ok=True, value=settled(candidate.fn(child)))
        else:
            result = child.commands.run(candidate.cmd or "", candidate.timeout_s, env=candidate.env)
            outcome = replace(
                blank,
                ok=result.exit_code == 0,
                exit_code=result.exit_code,
                stdout_tail=_explore.tail(result.stdout),
                stderr_tail=_explore.tail(result.stderr),
            )
        if not self.roots or not outcome.ok:
            return outcome
        found = _aside(child, _explore.finding(self.roots))
        return replace(outcome, files_changed=found.splitlines())

    def _scored(self, child: S, candidate: Candidate[S], outcome: BranchOutcome) -> BranchOutcome:
        if candidate.score is not None:
            return replace(outcome, score=candidate.score)
        if self.score_fn is None or outcome.error is not None:
            return replace(outcome, score=1.0 if outcome.ok else 0.0)
        try:
            return replace(outcome, score=float(settled(self.score_fn(child, outcome))))
        except Exception as error:  # a judge that fails gives no points, and the others are judged
            return replace(outcome, error=f"score_fn raised: {_sentence(error)}")


def _blank(child: S, candidate: Candidate[S]) -> BranchOutcome:
    """The outcome of what has not succeeded."""
    return BranchOutcome(candidate.label, child.id, False, 0.0, None, "", "", [], 0)


def _aside(child: S, line: str) -> str:
    """The output of a line that is no part of the attempt: nothing when it fails or takes too long."""
    try:
        return (child.commands.run(line, _explore.SIDE_SECONDS)).stdout
    except PandastackError:
        return ""


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__


def _settle(
    tree: ForkTree[S], outcomes: list[BranchOutcome], won: BranchOutcome, *, cleanup: bool, promote: bool
) -> ExploreResult[S]:
    """Keep the winner, end the others."""
    winner = next(child for child in tree if child.id == won.sandbox_id)
    errors = [f"branch {each['index']} did not come up: {each['error']}" for each in tree.errors]
    reaped: list[str] = []
    failures: dict[str, str] = {}
    if promote:
        try:
            told = winner.promote(cleanup_siblings=cleanup, tree_id=tree.tree_id or None)
            reaped = list(told["deleted"])
        except PandastackError as error:
            errors.append(f"The winner was not promoted: {error}")
    if cleanup:
        left = [child for child in tree if child is not winner and child.id not in reaped]
        failures = _reap(left)
        reaped += [child.id for child in left if child.id not in failures]
    kept = winner if promote else None
    return ExploreResult(kept, won, outcomes, tree.tree_id, reaped, failures, errors)


def _reap(children: Sequence[S]) -> dict[str, str]:
    """End these; why each could not be that could not."""
    failures = {}
    for child in children:
        try:
            child.kill()
        except NotFoundError:
            continue  # gone already
        except PandastackError as error:
            failures[child.id] = str(error)
    return failures
