"""The second half of `scripts/demo`: a server of its own, the example, and where the time went."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pandastack.errors import MachineError, PandastackError
from pandastack.testing.server import Server, running_server

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "code_interpreter.py"

EXAMPLE_SECONDS = 120.0

STEPS = {
    ("POST", 0): "a microVM is restored and answers",
    ("PUT", 2): "the program is written into it",
    ("POST", 3): "the program runs",
    ("GET", 2): "the chart is read",
    ("DELETE", 1): "the microVM is destroyed",
}
"""The example's requests, by method and depth of the path below /v1/sandboxes."""

console = Console(highlight=False)


class Stopwatch:
    """What took how long, in seconds."""

    def __init__(self) -> None:
        self.laps: list[tuple[str, float]] = []

    def note(self, what: str, seconds: float) -> None:
        self.laps.append((what, seconds))

    @contextmanager
    def lap(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        with console.status(f"{what} …"):
            yield
        self.note(what, time.monotonic() - began)
        console.print(f"[green]✓[/green] {what} [dim]{self.laps[-1][1]:.2f} s[/dim]")


def run_example(server: Server) -> str:
    """What the example printed."""
    environment = {**os.environ, "PANDASTACK_API": server.url, "PANDASTACK_API_KEY": server.token}
    done = subprocess.run(
        [sys.executable, EXAMPLE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise MachineError(f"The example failed:\n{done.stderr or done.stdout}")
    return done.stdout.strip()


def steps_of_example(log: Path) -> list[tuple[str, float]]:
    """The requests of the example and how long their answers took, in seconds, from the server's log."""
    steps = []
    for line in log.read_text("utf-8", "replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        name = STEPS.get(
            (record.get("method"), record.get("path", "").partition("/v1/sandboxes")[2].count("/"))
        )
        if record.get("event") == "request.answered" and name:
            steps.append((f"  {name}", float(record["ms"]) / 1000))
    return steps


def show(watch: Stopwatch, total: float) -> None:
    table = Table(title="where the time went", box=None, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for what, seconds in watch.laps:
        table.add_row(what, f"{seconds:.2f} s")
    table.add_row("[bold]all of it[/bold]", f"[bold]{total:.2f} s[/bold]")
    console.print(table)


def demonstrate(watch: Stopwatch) -> None:
    with tempfile.TemporaryDirectory(prefix="pandastack-demo-") as directory:
        with ExitStack() as stack:
            with watch.lap("the server starts (the first time it bakes its templates)"):
                server = stack.enter_context(running_server(Path(directory), "--log", "json"))
            with watch.lap("the example: create a microVM, run code, pull the chart, destroy it"):
                printed = run_example(server)
            watch.laps += steps_of_example(server.log)
            began = time.monotonic()
        watch.note("the server ends and takes everything with it", time.monotonic() - began)
    console.print(f"\n{EXAMPLE.relative_to(ROOT)} says: [bold]{printed}[/bold]")
    console.print(f"The chart is {Path.cwd() / 'chart.png'}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--began", type=float, default=time.time(), help="when all of it began (Unix seconds)"
    )
    began = parser.parse_args().began
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    watch = Stopwatch()
    watch.note("set-up", time.time() - began)
    try:
        demonstrate(watch)
    except PandastackError as error:
        console.print("✗", error, *getattr(error, "__notes__", []), sep="\n", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    show(watch, time.time() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
