"""The results for people: tables on a terminal, and the page `benchmarks/README.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.host_facts import HostFacts
from benchmarks.percentiles import Summary
from benchmarks.result import Bar, Result, read_result

PAGE = Path(__file__).with_name("README.md")
WIDTH = 30
"""Characters of the longest bar of a phase."""
WITHIN = "phase_gate_ms"
"""A phase that lies within another."""

FIGURES = ("min", "p50", "p90", "p99", "max")


def results_in(folder: Path, questions: Iterable[str]) -> list[Result]:
    """Those results that exist, in the order of the questions."""
    found = (read_result(folder / f"{question}.json") for question in questions)
    return [result for result in found if result is not None]


def show_one(console: Console, result: Result) -> None:
    """One result in full: percentiles, where the time went, facts, bars, findings."""
    quick = " [yellow](quick: not to be quoted)[/yellow]" if result.quick else ""
    console.print(
        f"\n[bold]{result.question}[/bold]{quick} [dim]{result.seconds:g} s, {_quiet(result)}[/dim]"
    )
    answer = result.answer
    figures = {name: summary for name, summary in answer.summaries.items() if not name.startswith("phase_")}
    if figures:
        console.print(_percentiles(figures))
    phases = {name: summary for name, summary in answer.summaries.items() if name.startswith("phase_")}
    if phases:
        console.print(_phases(phases))
    for name, fact in answer.facts.items():
        console.print(f"  {name}: {fact}")
    console.print(_bars([(result.question, bar) for bar in answer.bars]))
    for finding in answer.findings[:20]:
        console.print(f"  [red]![/red] {finding}", markup=True, soft_wrap=True)


def show_all(console: Console, results: list[Result]) -> None:
    """The bars of all results, and the machines they were measured on."""
    if not results:
        console.print("There are no results yet: scripts/bench all")
        return
    console.print(_bars([(result.question, bar) for result in results for bar in result.answer.bars]))
    for conditions, questions in _conditions(results).items():
        console.print(f"[dim]{', '.join(questions)}: {conditions}", soft_wrap=True)


def write_page(results: list[Result], asks: Mapping[str, str]) -> None:
    """Write `benchmarks/README.md`."""
    PAGE.write_text(
        "\n".join([*_head(), *_bar_lines(results), *_figure_lines(results, asks), *_foot(results)])
    )


def _percentiles(figures: Mapping[str, Summary]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("")
    for name in ("count", *FIGURES):
        table.add_column(name, justify="right")
    for name, summary in figures.items():
        cells = [number(getattr(summary, figure)) for figure in FIGURES]
        table.add_row(label(name), str(summary.count), *cells)
    return table


def _phases(phases: Mapping[str, Summary]) -> Table:
    """Median milliseconds of each phase as bars."""
    table = Table(box=None, show_header=False, title="where the time goes (p50, ms)", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    longest = max(summary.p50 for summary in phases.values()) or 1.0
    for name, summary in phases.items():
        style = "dim" if name == WITHIN else "cyan"
        bar = "█" * round(WIDTH * max(0.0, summary.p50) / longest)
        table.add_row(_phase_label(name), number(summary.p50), f"[{style}]{bar}")
    return table


def _phase_label(name: str) -> str:
    word = name.removeprefix("phase_").removesuffix("_ms")
    return f"  of which {word}" if name == WITHIN else word


def _bars(rows: list[tuple[str, Bar]]) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("", "bar", "measured", "limit", ""):
        table.add_column(name, justify="right" if name in ("measured", "limit") else "left")
    for question, bar in rows:
        table.add_row(question, bar.what, f"{number(bar.measured)} {bar.unit}", limit(bar), _verdict(bar))
    return table


def _verdict(bar: Bar) -> str:
    if bar.met:
        return "[green]met[/green]"
    return "[yellow]above[/yellow]" if bar.guide else "[red]missed[/red]"


def number(value: float) -> str:
    """As many digits as mean something."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def label(name: str) -> str:
    """`first_exec_ms` as `first exec, ms`."""
    words, _, unit = name.rpartition("_")
    return f"{words.replace('_', ' ')}, {unit}"


def limit(bar: Bar) -> str:
    """What it has to reach."""
    return f"{'about ' if bar.guide else ''}{bar.relation} {number(bar.limit)} {bar.unit}".strip()


def verdict(bar: Bar) -> str:
    """Whether it does."""
    return "met" if bar.met else ("above" if bar.guide else "**missed**")


def _head() -> list[str]:
    return [
        "# Figures",
        "",
        "Made by `scripts/bench report` from `results/*.json`, which hold every sample. Real machines,",
        "through HTTP, each question against a server of its own with an empty state; times are wall time of",
        "the client.",
        "",
    ]


def _bar_lines(results: list[Result]) -> list[str]:
    lines = ["| | what | measured | bar | |", "|---|---|---:|---:|---|"]
    for result in results:
        for bar in result.answer.bars:
            measured = f"{number(bar.measured)} {bar.unit}".strip()
            lines.append(f"| {result.question} | {bar.what} | {measured} | {limit(bar)} | {verdict(bar)} |")
    return [*lines, ""]


def _figure_lines(results: list[Result], asks: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for result in results:
        quick = " (quick)" if result.quick else ""
        lines += [
            f"## {result.question}: {asks.get(result.question, '')}{quick}",
            "",
            result.answer.how,
            f"Meanwhile {_quiet(result)}.",
            "",
        ]
        if result.answer.summaries:
            lines += [f"| | count | {' | '.join(FIGURES)} |", "|---|" + "---:|" * (len(FIGURES) + 1)]
            lines += [_summary_line(name, summary) for name, summary in result.answer.summaries.items()]
            lines.append("")
        lines += [f"- {name}: {fact}" for name, fact in result.answer.facts.items()]
        lines += [f"- found: {finding}" for finding in result.answer.findings]
        lines.append("")
    return lines


def _summary_line(name: str, summary: Summary) -> str:
    cells = [number(getattr(summary, figure)) for figure in FIGURES]
    shown = label(name).replace("phase ", "… of which within the answer: " if name == WITHIN else "… phase ")
    return f"| {shown} | {summary.count} | {' | '.join(cells)} |"


def _foot(results: list[Result]) -> list[str]:
    conditions = [f"- {', '.join(names)}: {text}" for text, names in _conditions(results).items()]
    return [
        "## Conditions",
        "",
        *conditions,
        "",
        "Under `emulated` isolation every instruction of a guest is translated in software: with hardware",
        "virtualization guests run faster, and the boundary around them is a stronger one.",
        "",
        "## Measure it yourself",
        "",
        "    scripts/bench all              # some minutes; nothing else should run on the machine",
        "    scripts/bench create --quick   # one question, a few samples",
        "    scripts/bench report           # this page again",
        "",
    ]


def _conditions(results: list[Result]) -> dict[str, list[str]]:
    """Which questions were asked under the same conditions."""
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(_condition(result.host), []).append(result.question)
    return found


def _quiet(result: Result) -> str:
    """How quiet the machine was otherwise."""
    taken = result.disturbance
    return f"others had {taken.others:g} % of the processors, a hypervisor {taken.stolen:g} %"


def _condition(host: HostFacts) -> str:
    guest = ", itself virtual" if host.virtualized else ""
    changed = " with changes" if host.changed else ""
    return (
        f"{host.cpu}, {host.cores} cores{guest}, {host.memory_mb / 1024:.0f} GiB; "
        f"{host.system}, Linux {host.kernel}; {host.vmm}, {host.accel}, {host.isolation}; "
        f"Python {host.python}; load before {host.load_before:g}; commit {host.commit}{changed}; {host.date}"
    )
