"""What many measurements of one thing say together."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Summary(Struct, frozen=True):
    """A sample by its percentiles, in the unit of the sample."""

    count: int
    min: float
    p50: float
    p90: float
    p99: float
    max: float
    mean: float


def summarize(samples: Sequence[float]) -> Summary:
    """The percentiles of at least one measurement; ValueError for none."""
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(samples)
    return Summary(
        count=len(ordered),
        min=round(ordered[0], 3),
        p50=round(percentile(ordered, 0.50), 3),
        p90=round(percentile(ordered, 0.90), 3),
        p99=round(percentile(ordered, 0.99), 3),
        max=round(ordered[-1], 3),
        mean=round(sum(ordered) / len(ordered), 3),
    )


def percentile(ordered: Sequence[float], quantile: float) -> float:
    """The value below which so much of an ascending sample lies, interpolated between its two neighbours."""
    place = quantile * (len(ordered) - 1)
    lower = int(place)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (place - lower)


def slope(values: Sequence[float]) -> float:
    """How much the values rise from one to the next: the slope of the least-squares line through them."""
    count = len(values)
    if count < 2:
        return 0.0
    middle, mean = (count - 1) / 2, sum(values) / count
    above = sum((place - middle) * (value - mean) for place, value in enumerate(values))
    return above / sum((place - middle) ** 2 for place in range(count))
