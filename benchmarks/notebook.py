"""What a question comes by while it is asked: samples, failures, and creates to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2

from benchmarks.api import Api, Refused
from benchmarks.leftovers import Holdings, holdings, lasting
from benchmarks.percentiles import Summary, summarize
from benchmarks.question import Stage
from benchmarks.result import Answer, Bar, at_most, none_of


class Notebook:
    """Made behind the warm-up: what the server and the machine hold then they must hold at the end."""

    def __init__(self, stage: Stage) -> None:
        self.samples: dict[str, list[float]] = {}
        self._api: Api = stage.api
        self._stage = stage
        self._before: Holdings = holdings(stage.server)
        self._failures: list[str] = []
        self._attempts = 0

    def add(self, **figures: float) -> None:
        """One sample more of each; names end with their unit."""
        for name, figure in figures.items():
            self.samples.setdefault(name, []).append(figure)

    def create(self) -> None:
        """The yardstick, between the samples of what it measures: a disturbance then hits both."""
        sandbox, create = self._api.create()
        try:
            _, first_exec = self._api.exec(sandbox["id"], "true")
        finally:
            self._api.delete(sandbox["id"])
        self.add(create_ms=create, create_and_exec_ms=create + first_exec)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A failure within the block is noted, and the question goes on."""
        self._attempts += 1
        try:
            yield
        except (Refused, httpx2.HTTPError) as error:
            self._failures.append(f"{what}: {type(error).__name__}: {error}")

    def of(self, name: str) -> Summary:
        """The percentiles so far. Refused when there is no sample, with the reason."""
        if not self.samples.get(name):
            raise Refused(f"{name} was never measured; the last failure: {[None, *self._failures][-1]}")
        return summarize(self.samples[name])

    def creates(self, name: str) -> float:
        """The median, in medians of a create."""
        return self.of(name).p50 / self.of("create_ms").p50

    def within_creates(self, what: str, name: str, limit: float) -> Bar:
        """A bar of the median in medians of a create."""
        return at_most(f"p50 of {what} / p50 of create", self.creates(name), limit, "×")

    def answer(self, how: str, bars: list[Bar], facts: Mapping[str, float | str]) -> Answer:
        """All of it, and what went wrong or was left behind; to be called when everything was deleted."""
        left = lasting(self._before, self._stage.server)
        return Answer(
            how=how,
            bars=[
                *bars,
                none_of(f"failures in {self._attempts} attempts", len(self._failures)),
                none_of("things left: processes, descriptors, files, sockets, interfaces, mounts", len(left)),
            ],
            summaries={name: summarize(values) for name, values in self.samples.items()},
            facts=dict(facts),
            findings=[*self._failures, *left],
            samples=self.samples,
        )
