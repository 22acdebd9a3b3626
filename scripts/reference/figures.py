"""The table of figures in README.md, from the results of `scripts/bench`."""

from __future__ import annotations

from pathlib import Path

import msgspec
from benchmarks.report import limit, number, verdict
from benchmarks.result import Result, read_result

from reference.markdown import table

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
NONE_YET = "No results are kept in this checkout; `scripts/bench all` measures your machine."


def filled(readme: str, results: Path) -> str:
    """The same text with a fresh table between its two marks; unchanged when it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return readme
    return f"{before}{BEGIN}\n{figures(results)}\n{END}{after}"


def figures(folder: Path) -> str:
    """Every bar that was measured, and the machine it was measured on."""
    quotable = [result for path in sorted(folder.glob("*.json")) if (result := quotable_result(path))]
    if not quotable:
        return NONE_YET
    rows = [
        (result.question, bar.what, f"{number(bar.measured)} {bar.unit}".strip(), limit(bar), verdict(bar))
        for result in quotable
        for bar in result.answer.bars
        if not bar.what.startswith("processes left")
    ]
    machines = dict.fromkeys(machine(result) for result in quotable)
    return "\n\n".join([table(("", "what", "measured", "bar", ""), rows), *machines])


def quotable_result(path: Path) -> Result | None:
    """A result that may be quoted: of a full run, and of the shape that is written today."""
    try:
        result = read_result(path)
    except msgspec.ValidationError:
        return None
    return None if result is None or result.quick else result


def machine(result: Result) -> str:
    """The conditions, in a sentence."""
    host = result.host
    return (
        f"Measured on {host.cores} cores of {host.cpu}, {host.memory_mb / 1024:.0f} GiB, {host.system}, "
        f"{host.vmm}, isolation `{host.isolation}`; every sample is in `benchmarks/results/`."
    )
