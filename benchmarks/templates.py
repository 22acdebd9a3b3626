"""What a template costs: how long one of one's own takes to build, and how long a create of each takes
beside `base`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.api import Refused
from benchmarks.percentiles import Summary, summarize
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, Bar, at_most, none_of
from benchmarks.servers import rehearsed
from pandastack import Client, PandastackError

BASE, OWN = "base", "own"
RATIO = 2.5
"""How much longer than one of `base` a create of any other template may take."""
WARM_UP = 3
BUILDS = 3
ROOT = "bin/sh bin/true lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6"
PACKED = "/root/root.tar"
DOCKERFILE = """\
FROM scratch
ADD root.tar /
ENV COLOUR=green
RUN echo {number} > /made
CMD ["/bin/sh", "-c", "while true; do read line; done"]
"""

HOW = (
    "A template is built of a Dockerfile of five steps over a root file system of three programs, anew and "
    "then with one step changed; wall time until the record says that it is done, baking included. Then a "
    "sandbox of each template is created and deleted in turns, so that all meet the same machine."
)


def measure(stage: Stage, count: int) -> Answer:
    """Build, then create each template `count` times."""
    with Client(stage.server.url, stage.server.token) as client:
        first, further = _builds(client, min(BUILDS, count))
        try:
            names = [BASE, *_others(client), OWN]
            spent, failures = _creates(stage, names, count)
        finally:
            client.templates.delete(OWN)
    samples = {"build_anew_ms": first, "build_again_ms": further}
    samples |= {f"create_{name}_ms": spent[name] for name in names}
    summaries = {name: summarize(values) for name, values in samples.items()}
    return Answer(
        how=HOW,
        bars=[*_bars(summaries, names[1:]), none_of("creates that failed", len(failures))],
        summaries=summaries,
        findings=failures,
        samples=samples,
    )


def _bars(summaries: Mapping[str, Summary], names: Sequence[str]) -> list[Bar]:
    middle = {name: summaries[f"create_{name}_ms"].p50 for name in [BASE, *names]}
    return [
        at_most(f"p50 of create, `{name}` / `{BASE}`", middle[name] / middle[BASE], RATIO, "×")
        for name in names
    ]


def _others(client: Client) -> list[str]:
    """The server's own templates beside `base`."""
    return [each.name for each in client.templates.list() if each.is_global and each.name != BASE]


def _builds(client: Client, again: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a first build, and of builds that find most of its layers."""
    with TemporaryDirectory() as folder:
        with client.sandboxes.create(BASE) as sandbox:
            sandbox.exec(f"tar --create --file={PACKED} --dereference --directory=/ {ROOT}", check=True)
            sandbox.files.download(PACKED, f"{folder}/root.tar")
        spent = [_build(client, Path(folder), number) for number in range(again + 1)]
    return spent[:1], spent[1:]


def _build(client: Client, folder: Path, number: int) -> float:
    (folder / "Dockerfile").write_text(DOCKERFILE.format(number=number))
    began = time.perf_counter()
    client.templates.build(OWN, str(folder / "Dockerfile"), size_mb=64, replace=number > 0)
    return (time.perf_counter() - began) * 1000


def _creates(stage: Stage, names: Sequence[str], count: int) -> tuple[dict[str, list[float]], list[str]]:
    """Milliseconds of each create by template, and what failed."""
    spent: dict[str, list[float]] = {name: [] for name in names}
    failures = []
    for number in stage.times(count + WARM_UP, "create and delete of each template"):
        if number == WARM_UP:
            rehearsed(stage.server)
        for name in names:
            try:
                sandbox, elapsed = stage.api.create(template=name)
                stage.api.delete(sandbox["id"])
            except (Refused, PandastackError) as error:
                failures.append(f"{name} {number}: {error}")
                continue
            if number >= WARM_UP:
                spent[name].append(elapsed)
    return spent, failures


QUESTION = Question("what templates cost", measure, count=60, quick=3)
