"""Idle time: what counts as use, and who is overdue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pandastack.model.clock import Clock
from pandastack.model.sandbox import Isolation, OnTimeout, Sandbox, SandboxState
from pandastack.services.activity import Activity, Use


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0
        self.clock = Clock(lambda: self.seconds, lambda: self.seconds)

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


def sandbox(**values: Any) -> Sandbox:  # noqa: ANN401  # the fields of a Sandbox
    began = datetime.fromtimestamp(1_000_000, UTC)
    fixed = {"template": "base", "status": SandboxState.RUNNING, "cpu": 1, "memory_mb": 512, "host": "h"}
    more = {"created_at": began, "awake_since": began, "workspace": "w", "isolation": Isolation.NONE}
    return Sandbox("a", **{"ttl_seconds": 60, **fixed, **more, **values})


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def activity(time: Time) -> Activity:
    activity = Activity(time.clock)
    activity.begin(sandbox())
    return activity


def overdue(activity: Activity) -> list[str]:
    return [idle.sandbox_id for idle in activity.overdue()]


def test_a_sandbox_is_overdue_once_it_idled_longer_than_its_ttl(activity: Activity, time: Time) -> None:
    time.passes(60)
    assert overdue(activity) == []
    time.passes(0.5)
    assert overdue(activity) == ["a"]
    assert activity.idle_seconds("a") == 60.5


def test_use_that_lasts_keeps_it_awake_and_its_end_starts_the_time(activity: Activity, time: Time) -> None:
    with activity.using("a"), activity.using("a"):
        time.passes(1000)
        assert overdue(activity) == [] and activity.idle_seconds("a") == 0
    time.passes(59)
    assert overdue(activity) == []
    time.passes(2)
    assert overdue(activity) == ["a"]


def test_a_use_that_begins_before_it_is_watched_counts(time: Time) -> None:
    """As that of a sandbox whose row says that it runs, and whose wake is not yet over."""
    activity = Activity(time.clock)
    with activity.using("a"):
        activity.begin(sandbox())
        time.passes(1000)
        assert overdue(activity) == [] and activity.idle_seconds("a") == 0
    assert overdue(activity) == []
    time.passes(61)
    assert overdue(activity) == ["a"]


def test_a_touch_starts_the_time_anew(activity: Activity, time: Time) -> None:
    time.passes(59)
    activity.touch("a")
    time.passes(59)
    assert overdue(activity) == []


def test_a_persistent_one_is_never_overdue_until_it_is_no_more(activity: Activity, time: Time) -> None:
    activity.allow(sandbox(persistent=True))
    time.passes(10_000)
    assert overdue(activity) == []
    activity.allow(sandbox(ttl_seconds=5))
    time.passes(6)
    assert overdue(activity) == ["a"]


def test_one_that_ended_is_forgotten_even_while_in_use(activity: Activity, time: Time) -> None:
    with activity.using("a"):
        activity.end("a")
    time.passes(10_000)
    assert overdue(activity) == [] and activity.idle_seconds("a") == 0
    with activity.using("a"):
        assert overdue(activity) == []


def test_changes_are_taken_once_and_say_when(activity: Activity, time: Time) -> None:
    time.passes(10)
    began = datetime.fromtimestamp(1_000_000, UTC)
    assert activity.take_changes() == {"a": began}
    assert activity.take_changes() == {}
    activity.touch("a")
    assert activity.take_changes() == {"a": datetime.fromtimestamp(1_000_010, UTC)}


def test_a_persistent_one_with_an_idle_timeout_is_put_to_sleep(activity: Activity, time: Time) -> None:
    activity.begin(sandbox(persistent=True, idle_timeout_seconds=10))
    time.passes(11)
    (due,) = activity.overdue()
    assert due.then is OnTimeout.HIBERNATE
    assert due.cause == "idle for 11 s, longer than its idle timeout of 10 s"


def test_what_a_timeout_does_is_its_owners_choice(activity: Activity, time: Time) -> None:
    time.passes(61)
    assert activity.overdue()[0].then is OnTimeout.KILL
    activity.begin(sandbox(on_timeout=OnTimeout.HIBERNATE))
    time.passes(61)
    assert activity.overdue()[0].then is OnTimeout.HIBERNATE


def test_a_lifetime_ends_also_what_is_in_use(activity: Activity, time: Time) -> None:
    activity.begin(sandbox(lifetime_seconds=100, used_seconds=30.0))
    with activity.using("a"):
        time.passes(70)
        assert overdue(activity) == []
        assert activity.sleeps_in("a") == 0
        time.passes(1)
        assert activity.overdue()[0].cause == "its lifetime of 100 s is over"


def test_one_that_could_not_be_reaped_is_excused_for_a_while(activity: Activity, time: Time) -> None:
    time.passes(61)
    activity.excuse("a", 30)
    assert overdue(activity) == []
    time.passes(30)
    assert overdue(activity) == ["a"]


def test_what_keeps_it_awake_is_told_by_kind(activity: Activity, time: Time) -> None:
    with activity.using("a", Use.EXEC), activity.using("a", Use.TERMINAL), activity.using("a", Use.EXEC):
        found = {reason.kind: reason for reason in activity.reasons("a")}
        assert found.keys() == {"exec", "terminal"}
        assert found["exec"].detail == "2 commands last." and found["terminal"].since is not None
        assert activity.sleeps_in("a") is None
    time.passes(20)
    (reason,) = activity.reasons("a")
    assert reason.kind == "recent_use" and "20 s ago" in reason.detail
    assert activity.sleeps_in("a") == 40
    activity.allow(sandbox(persistent=True))
    assert [reason.kind for reason in activity.reasons("a")] == ["persistent", "no_timeout"]
    assert activity.reasons("nobody") == [] and activity.sleeps_in("nobody") is None
