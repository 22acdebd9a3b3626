"""Several attempts at once: both halves of the SDK against a server that is a function."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

import pandastack
from pandastack import (
    AsyncClient,
    AsyncSandbox,
    BranchOutcome,
    Candidate,
    Client,
    ExploreError,
    Sandbox,
    explore,
)

from .conftest import NOWHERE, SANDBOX, sse

pytestmark = pytest.mark.anyio


class Forest:
    """Answers what `explore` asks: a tree of children, of which each does as its command says."""

    def __init__(self, missing: frozenset[int] = frozenset()) -> None:
        self.missing = missing
        self.alive: set[str] = set()
        self.sent: list[tuple[str, object]] = []
        self.promotion_fails = False
        self.slow = ""
        self._lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/v1/sandboxes/")
        body = json.loads(request.content) if request.content else None
        sandbox_id, _, verb = path.partition("/")
        with self._lock:
            self.sent.append((f"{request.method} {path}", body))
            if request.method == "DELETE":
                self.alive.discard(sandbox_id)
                return httpx2.Response(204)
            return self._do(sandbox_id, verb, body or {})

    def _do(self, sandbox_id: str, verb: str, body: dict[str, object]) -> httpx2.Response:
        if verb == "fork-tree":
            count = int(str(body["count"]))
            children = [self._child(index) for index in range(count) if index not in self.missing]
            errors = [{"index": index, "error": "no room", "code": "x"} for index in self.missing]
            answer = {"tree_id": "t", "snapshot_id": "f", "children": children, "errors": errors}
            return httpx2.Response(201, json=answer)
        if verb == "promote":
            if self.promotion_fails:
                return httpx2.Response(500, json={"error": "broken"})
            losers = sorted(self.alive - {sandbox_id}) if body["cleanup_siblings"] else []
            self.alive -= set(losers)
            told = {"winner": sandbox_id, "tree_id": "t", "deleted": losers, "failures": {}}
            return httpx2.Response(200, json=told)
        cmd = str(body["cmd"])
        return _ran(f"late {cmd}" if self.slow and cmd.startswith(self.slow) else cmd)

    def _child(self, index: int) -> dict[str, object]:
        self.alive.add(f"c{index}")
        return {**SANDBOX, "id": f"c{index}", "metadata": {"fork_index": str(index), "fork_tree_id": "t"}}

    def commands(self) -> list[str]:
        return [str(body["cmd"]) for line, body in self.sent if isinstance(body, dict) and "cmd" in body]


def _ran(cmd: str) -> httpx2.Response:
    if cmd.startswith("late"):
        return sse(("error", '{"error":"command timeout","code":"command.timeout"}'))
    text = "/work/made\\n" if cmd.startswith("find") else "x" * 5000 + cmd
    code = 3 if cmd.startswith("fail") else 0
    return sse(("stdout", json.dumps({"chunk": text})), ("exit", json.dumps({"exit_code": code})))


@pytest.fixture
def forest() -> Forest:
    return Forest()


@pytest.fixture
def parent(forest: Forest) -> Iterator[Sandbox]:
    with Client("http://h:1", "k", transport=httpx2.MockTransport(forest), surroundings=NOWHERE) as client:
        yield Sandbox.from_dict({**SANDBOX, "id": "p"}, client)


@pytest.fixture
async def async_parent(forest: Forest) -> AsyncIterator[AsyncSandbox]:
    transport = httpx2.MockTransport(forest)
    async with AsyncClient("http://h:1", "k", transport=transport, surroundings=NOWHERE) as client:
        yield AsyncSandbox.from_dict({**SANDBOX, "id": "p"}, client)


def test_the_first_success_wins_and_the_others_end(parent: Sandbox, forest: Forest) -> None:
    told: list[str] = []
    result = parent.explore(
        ["fail 1", "good 2", "late 3", "good 4"], on_outcome=lambda outcome: told.append(outcome.label)
    )
    assert result.winner is not None
    assert (result.winner.id, result.tree_id, result.errors) == ("c1", "t", [])
    assert [each.label for each in result.outcomes] == ["good 2", "good 4", "fail 1", "late 3"]
    assert sorted(result.reaped) == ["c0", "c2", "c3"]
    assert forest.alive == {"c1"}
    assert sorted(told) == sorted(each.label for each in result.outcomes)
    late = result.outcomes[-1]
    assert (late.timed_out, late.ok, late.error) == (True, False, "command timeout")
    won = result.best()[0]
    assert (won.exit_code, won.files_changed, len(won.stdout_tail)) == (0, ["/work/made\\n"], 4096)
    assert result.table().splitlines()[1].startswith("*  good 2")
    body = {"count": 4, "metadata": {"explore": "1", "explore_ttl": "600"}, "ttl_seconds": 600}
    assert forest.sent[0] == ("POST p/fork-tree", body)


async def test_the_asynchronous_half_does_the_same(async_parent: AsyncSandbox, forest: Forest) -> None:
    async def length(sandbox: AsyncSandbox, outcome: BranchOutcome) -> int:
        return len(outcome.label)

    async def drive(sandbox: AsyncSandbox) -> str:
        return (await sandbox.exec("inner")).stdout[-5:]

    candidates: list[Candidate[AsyncSandbox] | str] = [Candidate.call("driven", drive), "good", "fail"]
    result = await async_parent.explore(candidates, score_fn=length)
    assert result.winner is not None
    assert result.winner_outcome is not None
    assert (result.winner_outcome.label, result.winner_outcome.value) == ("driven", "inner")
    assert forest.alive == {result.winner.id}


def test_scores_decide(parent: Sandbox, forest: Forest) -> None:
    candidates = [
        Candidate.shell("given", "good", score=9.0, env={"K": "v"}),
        Candidate.shell("judged", "good", timeout_s=2.5),
        Candidate[Sandbox]("called", fn=lambda sandbox: sandbox.id),
    ]
    result = explore(parent, candidates, score_fn=lambda sandbox, outcome: len(outcome.label))
    assert [(each.label, each.score) for each in result.outcomes] == [
        ("given", 9),
        ("judged", 6),
        ("called", 6),
    ]
    assert result.outcomes[-1].value == "c2"
    sent = [body for _, body in forest.sent if isinstance(body, dict) and body.get("cmd") == "good"]
    assert {"cmd": "good", "timeout_seconds": 60.0, "env": {"K": "v"}} in sent
    assert {"cmd": "good", "timeout_seconds": 2.5} in sent


@pytest.mark.parametrize(
    ("select", "winner"), [("max", "ccc"), ("min", "a"), (lambda viable: viable[1], "bb")]
)
def test_ways_to_choose(parent: Sandbox, select: str, winner: str) -> None:
    result = parent.explore(["bb", "a", "ccc", "fail"], score_fn=lambda _, it: len(it.label), select=select)
    assert result.winner_outcome is not None
    assert result.winner_outcome.label == winner


def test_without_a_winner_nothing_is_left(parent: Sandbox, forest: Forest) -> None:
    with pytest.raises(ExploreError, match="None of 2 branches succeeded") as caught:
        parent.explore(["fail 1", "late 2"])
    assert {outcome.label for outcome in caught.value.outcomes} == {"fail 1", "late 2"}
    assert not forest.alive
    allowed = parent.explore(["fail 1", "late 2"], require_success=False)
    assert allowed.winner is not None


def test_an_error_of_the_caller_leaves_nothing(parent: Sandbox, forest: Forest) -> None:
    def stop(outcome: BranchOutcome) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parent.explore(["good"] * 6, on_outcome=stop)
    assert not forest.alive


async def test_a_cancelled_exploration_leaves_nothing(async_parent: AsyncSandbox, forest: Forest) -> None:
    async def never(sandbox: AsyncSandbox) -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await async_parent.explore([Candidate.call("never", never), "good"])
    assert not forest.alive

    def stop(outcome: BranchOutcome) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await async_parent.explore([Candidate.call("never", never), "good"], on_outcome=stop)
    assert not forest.alive


def test_a_broken_candidate_or_judge_is_an_outcome(parent: Sandbox) -> None:
    def broken(sandbox: Sandbox) -> None:
        raise LookupError("lost")

    def judge(sandbox: Sandbox, outcome: BranchOutcome) -> float:
        raise LookupError("blind")

    result = parent.explore([Candidate.call("broken", broken), "good"], score_fn=judge)
    assert [each.error for each in result.outcomes] == ["score_fn raised: blind", "lost"]


def test_where_failure_may_win_the_score_decides(parent: Sandbox) -> None:
    points = {"good": 0.2, "fail": 0.9}
    result = parent.explore([*points], score_fn=lambda _, it: points[it.label], require_success=False)
    assert [each.label for each in result.outcomes] == ["fail", "good"]
    assert result.winner_outcome == result.outcomes[0]


@pytest.mark.parametrize("line", ["touch", "find"])
def test_an_attempt_does_not_fail_by_what_is_asked_about_it(
    parent: Sandbox, forest: Forest, line: str
) -> None:
    forest.slow = line
    (outcome,) = parent.explore(["good"]).outcomes
    assert (outcome.ok, outcome.exit_code, outcome.error, outcome.timed_out) == (True, 0, None, False)


def test_nothing_is_forked_for_nothing(parent: Sandbox, forest: Forest) -> None:
    with pytest.raises(ExploreError, match="no candidates"):
        parent.explore([])
    with pytest.raises(ExploreError, match="17 candidates"):
        parent.explore(["x"] * 17)
    with pytest.raises(ExploreError, match="either a cmd or a fn"):
        parent.explore([Candidate("neither")])
    with pytest.raises(ValueError, match="select"):
        parent.explore(["x"], select="best")
    assert not forest.sent


def test_a_child_that_did_not_come_up_shifts_nobody(parent: Sandbox, forest: Forest) -> None:
    forest.missing = frozenset({0})
    result = parent.explore(["first", "second", "third"])
    assert [(each.label, each.sandbox_id) for each in result.outcomes] == [("second", "c1"), ("third", "c2")]
    assert result.errors == ["branch 0 did not come up: no room"]


def test_what_is_kept_can_be_said(parent: Sandbox, forest: Forest) -> None:
    result = parent.explore(["a", "b"], promote_winner=False)
    assert (result.winner, result.reaped, forest.alive) == (None, ["c1"], {"c0"})
    forest.alive.clear()
    result = parent.explore(["a", "b"], cleanup_losers=False, capture_files=False)
    assert (result.reaped, forest.alive) == ([], {"c0", "c1"})
    assert forest.commands()[-2:] == ["a", "b"] or forest.commands()[-2:] == ["b", "a"]
    parent.explore(["a"], capture_files="/srv/x y")
    assert forest.commands()[-1].startswith("find '/srv/x y' -type f -newer ")


def test_a_refused_promotion_is_told_and_losers_end(parent: Sandbox, forest: Forest) -> None:
    forest.promotion_fails = True
    result = parent.explore(["a", "b"])
    assert result.winner is not None
    assert result.errors == ["The winner was not promoted: broken"]
    assert (result.reaped, forest.alive) == (["c1"], {"c0"})


def test_an_explore_error_is_one_of_ours() -> None:
    assert issubclass(ExploreError, pandastack.PandastackError)


def test_the_function_may_be_imported_as_a_module(parent: Sandbox) -> None:
    module = importlib.import_module("pandastack.explore")
    assert module.Candidate is Candidate
    assert module.explore is explore
    assert pandastack.explore(parent, ["good"]).outcomes[0].ok
