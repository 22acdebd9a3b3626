"""`scripts/bench`: asks the questions, one fresh server each, and keeps what comes out."""

from __future__ import annotations

import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import httpx2
import msgspec
import typer
from rich.console import Console

from benchmarks import (
    browser,
    burst,
    cells,
    chain,
    create,
    density,
    disturbance,
    egress,
    exec,
    files,
    fork,
    gateway,
    hibernate,
    net,
    report,
    snapshot,
    soak,
    templates,
)
from benchmarks.api import Refused, connected
from benchmarks.host_facts import host_facts
from benchmarks.leftovers import networks_of, processes_of
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, Result, none_of, write_result
from benchmarks.servers import fresh_server
from benchmarks.vmm_start import find_vmm
from pandastack.errors import PandastackError
from pandastack.host.paths import Cache
from pandastack.host.qemu_command import Vmm

QUESTIONS: dict[str, Question] = {
    "create": create.QUESTION,
    "exec": exec.QUESTION,
    "burst": burst.QUESTION,
    "density": density.QUESTION,
    "soak": soak.QUESTION,
    "files": files.QUESTION,
    "fork": fork.QUESTION,
    "snapshot": snapshot.QUESTION,
    "hibernate": hibernate.QUESTION,
    "chain": chain.QUESTION,
    "gateway": gateway.QUESTION,
    "net": net.QUESTION,
    "egress": egress.QUESTION,
    "templates": templates.QUESTION,
    "cells": cells.QUESTION,
    "browser": browser.QUESTION,
}
CACHE = Path("~/.cache/pandastack")
RESULTS = Path(__file__).with_name("results")


class Wish(StrEnum):
    """What can be asked for."""

    CREATE = "create"
    EXEC = "exec"
    BURST = "burst"
    DENSITY = "density"
    SOAK = "soak"
    FILES = "files"
    FORK = "fork"
    SNAPSHOT = "snapshot"
    HIBERNATE = "hibernate"
    CHAIN = "chain"
    GATEWAY = "gateway"
    NET = "net"
    EGRESS = "egress"
    TEMPLATES = "templates"
    CELLS = "cells"
    BROWSER = "browser"
    ALL = "all"
    REPORT = "report"


def main(
    wish: Annotated[Wish, typer.Argument(help="A question, all of them, or a report of the last answers.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples: to see that it works.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="So many samples (of files: MiB).")] = None,
    baseline: Annotated[
        Path | None, typer.Option(exists=True, help="A checkout of an older version, to compare with (net).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where results are kept; quick ones only there.")] = None,
) -> None:
    """Measure the product on this machine: real machines, through HTTP, on a server of its own.

    A bar that is missed is told, and is no failure of the program.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    if wish is Wish.REPORT:
        _report(console, out or RESULTS)
        return
    try:
        vmm = find_vmm(Cache(CACHE.expanduser()))
        for name in QUESTIONS if wish is Wish.ALL else [wish.value]:
            times = count if wish is not Wish.ALL else None
            result = _ask(name, vmm, console, baseline, quick=quick, count=times)
            report.show_one(console, result)
            if out is not None or not result.quick:
                write_result(result, out or RESULTS)
    except (PandastackError, Refused, httpx2.HTTPError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
        for note in getattr(error, "__notes__", []):
            console.print(note, markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if wish is Wish.ALL and not quick:
        _report(console, out or RESULTS)


def _ask(
    name: str, vmm: Vmm, console: Console, baseline: Path | None, *, quick: bool, count: int | None
) -> Result:
    question = QUESTIONS[name]
    times = count or (question.quick if quick else question.count)
    facts = host_facts(vmm)
    with console.status(f"{name}: a server starts") as status, fresh_server() as server:
        status.stop()
        before = disturbance.read(server.pid)
        with connected(server) as api:
            answer = question.measure(Stage(server, api, vmm, console, baseline), times)
        status.update(f"{name}: the server ends")
    answer, after = (
        _with_leftovers(answer, [*processes_of(server.state), *networks_of(server.state)]),
        disturbance.read(),
    )
    return Result(
        question=name,
        quick=times < question.count,
        seconds=round(after.wall - before.wall, 1),
        host=facts,
        disturbance=disturbance.between(before, after),
        answer=answer,
    )


def _with_leftovers(answer: Answer, processes: list[str]) -> Answer:
    """The same answer, and what the server has left when it had ended."""
    bars = [*answer.bars, none_of("processes and networks left when the server had ended", len(processes))]
    return msgspec.structs.replace(answer, bars=bars, findings=[*answer.findings, *processes])


def _report(console: Console, out: Path) -> None:
    results = report.results_in(out, QUESTIONS)
    report.show_all(console, results)
    if results and out == RESULTS:
        report.write_page(results, {name: question.asks for name, question in QUESTIONS.items()})


if __name__ == "__main__":
    typer.run(main)
