"""The second half of `scripts/demo`: a server of its own, the example, and where the time went."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "code_interpreter.py"
PROGRAM = Path(sys.executable).with_name("pandastack")

READY_SECONDS = 600.0
"""The very first start bakes the templates."""
EXAMPLE_SECONDS = 120.0
STOP_SECONDS = 60.0

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


class Failure(Exception):
    """The demonstration cannot go on; the message says why."""


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(home: Path, listen: str, token: str) -> Iterator[subprocess.Popen[bytes]]:
    """`pandastack up`, ended with all its machines at the end of the block."""
    log = home / "server.log"
    state = str(home / "state")
    command = [str(PROGRAM), "up", "--state", state, "--listen", listen, "--on-exit", "destroy"]
    command += ["--log", "json"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "PANDASTACK_BOOTSTRAP_TOKEN": token}
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            subprocess.run([str(PROGRAM), "down", "--state", state], check=False, timeout=STOP_SECONDS)


def await_ready(process: subprocess.Popen[bytes], api: str, log: Path) -> None:
    """Return once the server answers; Failure with its last words when it ends or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    with httpx2.Client(timeout=5.0) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Failure(f"The server ended:\n{last_lines(log)}")
            try:
                if client.get(f"{api}/healthz").is_success:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
    raise Failure(f"The server was not ready after {READY_SECONDS:.0f} s:\n{last_lines(log)}")


def last_lines(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-20:])


def run_example(api: str, token: str) -> str:
    """What the example printed."""
    environment = {**os.environ, "PANDASTACK_API": api, "PANDASTACK_API_KEY": token}
    done = subprocess.run(
        [sys.executable, EXAMPLE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise Failure(f"The example failed:\n{done.stderr or done.stdout}")
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
    token = f"pds_{secrets.token_hex(16)}"
    listen = f"127.0.0.1:{free_port()}"
    api = f"http://{listen}"
    with tempfile.TemporaryDirectory(prefix="pandastack-demo-") as directory:
        home = Path(directory)
        with server(home, listen, token) as process:
            with watch.lap("the server starts (the first time it bakes its templates)"):
                await_ready(process, api, home / "server.log")
            with watch.lap("the example: create a microVM, run code, pull the chart, destroy it"):
                printed = run_example(api, token)
            watch.laps += steps_of_example(home / "server.log")
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
    except Failure as failure:
        console.print(f"[red]✗[/red] {failure}")
        return 1
    except KeyboardInterrupt:
        return 130
    show(watch, time.time() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
