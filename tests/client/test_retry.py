"""The capacity contract: what is sent again, after how long."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack.client._retry import Refusal, delay_before_retry, parse_retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def wait(refusal: Refusal, *, attempt: int = 0, elapsed: float = 0, budget: float = 60) -> float | None:
    """The delay when the jitter is at its highest."""
    return delay_before_retry(
        refusal, attempt=attempt, elapsed=elapsed, budget=budget, jitter=lambda cap: cap
    )


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Refusal(503, 5.0, "no room"), 6.0),
        (Refusal(503, 0.0, "no room"), 1.0),
        (Refusal(503, None, "no room"), None),
        (Refusal(503, 5.0, ""), None),
        (Refusal(507, None, ""), 1.5),
        (Refusal(507, 3.0, ""), 4.0),
        (Refusal(429, 1.0, ""), 2.0),
        (Refusal(429, None, "max sandboxes reached"), None),
        (Refusal(500, 1.0, "x"), None),
        (Refusal(502, 1.0, "x"), None),
        (Refusal(409, 1.0, "x"), None),
    ],
)
def test_only_refusals_before_the_create_are_sent_again(refusal: Refusal, expected: float | None) -> None:
    assert wait(refusal) == expected


@pytest.mark.parametrize(("attempt", "cap"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 15), (30, 15)])
def test_the_jitter_grows_to_fifteen_seconds(attempt: int, cap: float) -> None:
    assert wait(Refusal(429, 0.0, ""), attempt=attempt) == cap


def test_the_budget_ends_it() -> None:
    refusal = Refusal(503, 5.0, "no room")
    assert wait(refusal, budget=0) is None
    assert wait(refusal, elapsed=56) is None  # Retry-After does not fit
    assert wait(refusal, elapsed=54.5, attempt=4) == 5.5  # cut to end with the budget
    assert wait(Refusal(429, 0.0, ""), elapsed=59.5) is None  # too little is left to wait


@given(
    status=st.sampled_from([429, 503, 507]),
    retry_after=st.none() | st.floats(0, 120),
    attempt=st.integers(0, 100),
    elapsed=st.floats(0, 120),
    budget=st.floats(0, 120),
    share=st.floats(0, 1),
)
def test_no_attempt_starts_after_the_budget_or_before_the_server_said(
    status: int, retry_after: float | None, attempt: int, elapsed: float, budget: float, share: float
) -> None:
    refusal = Refusal(status, retry_after, "no room")
    delay = delay_before_retry(
        refusal, attempt=attempt, elapsed=elapsed, budget=budget, jitter=lambda cap: cap * share
    )
    if delay is not None:
        assert delay <= budget - elapsed + 1e-9
        assert delay >= (retry_after or 0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("soon", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
