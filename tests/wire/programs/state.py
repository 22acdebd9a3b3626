"""Snapshots, forks, sleep, and the best of several attempts."""

from __future__ import annotations

import os
import uuid

from pandastack import (
    BadRequestError,
    Candidate,
    ExploreError,
    NotFoundError,
    Sandbox,
    get_default_client,
)

from .registry import make, must_fail, program

HAS_STATE = os.environ.get("WIRE_DRIVER") != "process"
"""The process driver's sandboxes have neither a memory image nor a disk of their own: only the verbs can be
tried there.
"""

COUNT = (
    "setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n > {directory}/n; sleep 0.2; done' >/dev/null 2>&1 &"
)


def contents(sandbox: Sandbox, path: str) -> str:
    return sandbox.exec(f"cat {path}", check=True).stdout


@program
def a_snapshot_is_gone_on_from(directory: str) -> None:
    client = get_default_client()
    with make() as sandbox:
        sandbox.exec(f"echo before > {directory}/when", check=True)
        taken = sandbox.snapshot()
        assert isinstance(taken, str)
        assert sandbox.refresh().status == "running"
        if HAS_STATE:
            sandbox.exec(f"echo after > {directory}/when", check=True)
        listed = client.snapshots.list(sandbox_id=sandbox.id)
        assert [each["id"] for each in listed] == [taken]
        assert taken in [each["id"] for each in client.snapshots.list()]
        told = client.snapshots.get(taken)
        assert (told["sandbox_id"], told.get("template")) == (sandbox.id, "base")
        assert told["created_at"]
        assert told["size_bytes"] >= 0
    with Sandbox.create(from_snapshot=taken) as one, client.sandboxes.create(from_snapshot=taken) as two:
        assert (one.from_snapshot, one.template, one.status) == (taken, "base", "running")
        assert one.id != two.id
        assert contents(one, f"{directory}/when") == "before\n"
        client.snapshots.delete(taken)
        assert contents(two, f"{directory}/when") == "before\n"
    must_fail(NotFoundError, lambda: client.snapshots.get(taken))
    must_fail(NotFoundError, lambda: client.snapshots.delete(taken))
    must_fail(NotFoundError, lambda: Sandbox.create(from_snapshot=taken))
    must_fail(NotFoundError, lambda: Sandbox.create(from_snapshot=str(uuid.uuid4())))


@program
def snapshots_are_listed_newest_first(directory: str) -> None:
    client = get_default_client()
    with make() as sandbox:
        first, second = sandbox.snapshot(), sandbox.snapshot()
        sandbox.pause()
        third = sandbox.snapshot()
        assert sandbox.refresh().status == "paused"
        listed = [each["id"] for each in client.snapshots.list(sandbox_id=sandbox.id)]
        assert listed == [third, second, first]
    for each in listed:
        client.snapshots.delete(each)


@program
def a_fork_goes_on_by_itself(directory: str) -> None:
    with make() as sandbox:
        sandbox.exec(f"echo shared > {directory}/file", check=True)
        with sandbox.fork(metadata={"purpose": "wire"}) as child:
            assert child.id != sandbox.id
            assert (child.status, child.template) == ("running", "base")
            assert child.metadata["fork_parent_id"] == sandbox.id
            assert child.metadata["purpose"] == "wire"
            assert contents(child, f"{directory}/file") == "shared\n"
            if HAS_STATE:
                child.exec(f"echo own > {directory}/file", check=True)
                assert contents(sandbox, f"{directory}/file") == "shared\n"
            with child.fork() as grandchild:
                assert grandchild.metadata["fork_parent_id"] == child.id
                assert grandchild.exec("echo three").stdout == "three\n"
        assert sandbox.refresh().status == "running"
        client = get_default_client()
        client.sandboxes.fork(sandbox.id).kill()
    must_fail(NotFoundError, sandbox.fork)


@program
def running_programs_go_on_in_a_fork(directory: str) -> None:
    if not HAS_STATE:
        return
    with make() as sandbox:
        sandbox.exec(COUNT.format(directory=directory), check=True)
        sandbox.exec(f"until [ -s {directory}/n ]; do sleep 0.05; done", check=True)
        with sandbox.fork() as child:
            before = int(contents(child, f"{directory}/n") or 0)
            child.exec("sleep 2")
            assert int(contents(child, f"{directory}/n") or 0) > before


@program
def a_tree_has_distinct_children_in_order(directory: str) -> None:
    with make() as sandbox:
        children = sandbox.fork_tree(3, metadata={"round": "1", "fork_index": "mine"})
        assert isinstance(children, list)
        assert [child.metadata["fork_index"] for child in children] == ["0", "1", "2"]
        assert {child.metadata["fork_parent_id"] for child in children} == {sandbox.id}
        assert {child.metadata["fork_tree_role"] for child in children} == {"child"}
        assert {child.metadata["round"] for child in children} == {"1"}
        assert len({child.metadata["fork_tree_id"] for child in children}) == 1
        seen = [child.exec("cat /proc/sys/kernel/random/uuid", check=True).stdout for child in children]
        seen.append(sandbox.exec("cat /proc/sys/kernel/random/uuid", check=True).stdout)
        assert len(set(seen)) == 4
        if HAS_STATE:
            ids = [child.exec("cat /etc/machine-id; hostname", check=True).stdout for child in children]
            assert len(set(ids)) == 3
        for child in children:
            child.kill()
        must_fail(BadRequestError, lambda: sandbox.fork_tree(17))
        must_fail(BadRequestError, lambda: sandbox.fork_tree(0))


@program
def a_promotion_keeps_one_of_a_tree(directory: str) -> None:
    client = get_default_client()
    with make() as sandbox:
        first, second, third = sandbox.fork_tree(3)
        tree = second.metadata["fork_tree_id"]
        alone = second.promote()
        assert (alone["winner"], alone["tree_id"], alone["deleted"]) == (second.id, tree, [])
        told = third.promote(cleanup_siblings=True)
        assert (told["winner"], told["tree_id"], told["failures"]) == (third.id, tree, {})
        assert told["deleted"] == [first.id]
        must_fail(NotFoundError, first.refresh)
        assert second.exec("echo free").stdout == "free\n"
        assert third.exec("echo won").stdout == "won\n"
        again = client.sandboxes.promote(third.id, cleanup_siblings=True, tree_id=tree)
        assert again["deleted"] == []
        must_fail(BadRequestError, lambda: sandbox.promote(cleanup_siblings=True))
        second.kill()
        third.kill()


@program
def sleep_keeps_everything(directory: str) -> None:
    with make() as sandbox:
        for cycle in range(3):
            sandbox.exec(f"echo {cycle} >> {directory}/cycles", check=True)
            sandbox.hibernate()
            sandbox.hibernate()
            assert sandbox.refresh().status == "hibernated"
            assert Sandbox.get(sandbox.id).status == "hibernated"
            if cycle == 1:
                sandbox.wake()
                sandbox.wake()
                assert sandbox.refresh().status == "running"
        assert contents(sandbox, f"{directory}/cycles") == "0\n1\n2\n"
        assert sandbox.refresh().status == "running"
        sandbox.hibernate()
    must_fail(NotFoundError, sandbox.wake)


@program
def running_programs_sleep_and_wake(directory: str) -> None:
    if not HAS_STATE:
        return
    with make() as sandbox:
        sandbox.exec(COUNT.format(directory=directory), check=True)
        sandbox.exec(f"until [ -s {directory}/n ]; do sleep 0.05; done", check=True)
        sandbox.hibernate()
        before = int(contents(sandbox, f"{directory}/n") or 0)
        sandbox.exec("sleep 2")
        assert int(contents(sandbox, f"{directory}/n") or 0) > before


@program
def the_best_attempt_is_kept(directory: str) -> None:
    with make() as sandbox:
        heard: list[str] = []
        result = sandbox.explore(
            [
                Candidate.shell("short", "echo 1"),
                Candidate.shell("fails", "echo 999; exit 3"),
                Candidate.shell("long", "printf 12345", env={"UNUSED": "it's"}),
                Candidate.call("called", lambda child: child.exec("echo 22").stdout),
            ],
            score_fn=lambda child, outcome: float(len(outcome.stdout_tail)) if outcome.ok else -1.0,
            on_outcome=lambda outcome: heard.append(outcome.label),
        )
        assert result.winner is not None
        assert result.winner_outcome is not None
        assert (result.winner_outcome.label, result.winner_outcome.stdout_tail) == ("long", "12345")
        assert (result.best()[0].label, len(result.outcomes), len(result.table().splitlines())) == (
            "long",
            4,
            5,
        )
        assert sorted(heard) == ["called", "fails", "long", "short"]
        outcomes = {outcome.label: outcome for outcome in result.outcomes}
        assert (outcomes["fails"].exit_code, outcomes["fails"].ok) == (3, False)
        assert outcomes["called"].value == "22\n"
        assert (result.reap_failures, result.errors) == ({}, [])
        assert result.winner.exec("echo alive").stdout == "alive\n"
        alive = {each.id for each in Sandbox.list()}
        assert result.winner.id in alive
        assert not alive & {outcome.sandbox_id for outcome in result.outcomes if outcome.label != "long"}
        result.winner.kill()
        before = {each.id for each in Sandbox.list()}
        must_fail(ExploreError, lambda: sandbox.explore(["exit 1", "exit 2"]))
        assert {each.id for each in Sandbox.list()} == before
