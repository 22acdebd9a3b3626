"""Idle time: what counts as use, and who is overdue."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pandastack.model.clock import Clock
from pandastack.services.activity import Activity


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0
        self.clock = Clock(lambda: self.seconds, lambda: self.seconds)

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def activity(time: Time) -> Activity:
    activity = Activity(time.clock)
    activity.begin("a", 60)
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


def test_a_touch_starts_the_time_anew(activity: Activity, time: Time) -> None:
    time.passes(59)
    activity.touch("a")
    time.passes(59)
    assert overdue(activity) == []


def test_a_persistent_one_is_never_overdue_until_it_is_no_more(activity: Activity, time: Time) -> None:
    activity.allow("a", None)
    time.passes(10_000)
    assert overdue(activity) == []
    activity.allow("a", 5)
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
