"""One warm sandbox, forked into four that each try something else; the best one is kept.

Start a server with `pandastack up` in another terminal, then run this file. A process in the sandbox has
loaded its data once, before the forks: each fork has that process, with the data in its memory, and goes on
from there.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypedDict

from rich.console import Console
from rich.table import Table

from pandastack import Sandbox

WORKER = """
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd

rng = np.random.default_rng(7)
x = np.linspace(-3, 3, 20_000)
data = pd.DataFrame({"x": x, "y": x * np.sin(2 * x) + rng.normal(0, 0.3, x.size)})
held_out = data.sample(frac=0.25, random_state=1)
training = data.drop(held_out.index)
model = {"degree": None, "error": None}


class Worker(BaseHTTPRequestHandler):
    def do_GET(self):
        if degree := self.path.strip("/"):
            fit = np.polynomial.Polynomial.fit(training.x, training.y, int(degree))
            error = float(np.sqrt(np.mean((fit(held_out.x) - held_out.y) ** 2)))
            model.update(degree=int(degree), error=error)
        answer = json.dumps({"rows": len(data), **model}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)


HTTPServer(("127.0.0.1", 8000), Worker).serve_forever()
"""

DEGREES = (1, 3, 7, 13)


class Model(TypedDict):
    """What the worker has in its memory."""

    rows: int
    degree: int | None
    error: float | None


def ask(sandbox: Sandbox, path: str = "") -> Model:
    """What the worker in this sandbox answers."""
    asked = f"curl -sf --retry 60 --retry-delay 1 --retry-connrefused http://127.0.0.1:8000/{path}"
    answer: Model = json.loads(sandbox.exec(asked, check=True, timeout_seconds=120).stdout)
    return answer


def attempt(branch: tuple[Sandbox, int]) -> tuple[Sandbox, float, float]:
    """Fit a polynomial of some degree in this fork: how far off it is, and how long it took."""
    sandbox, degree = branch
    began = perf_counter()
    error = ask(sandbox, str(degree))["error"]
    assert error is not None
    return sandbox, error, perf_counter() - began


def main() -> None:
    console = Console()
    with Sandbox.create(template="code-interpreter", ttl_seconds=600) as parent:
        parent.filesystem.write("/workspace/worker.py", WORKER)
        parent.commands.start(["python3", "/workspace/worker.py"])
        console.print(f"the worker has {ask(parent)['rows']} rows in its memory")

        began = perf_counter()
        tree = parent.fork_tree(len(DEGREES))
        took = perf_counter() - began
        console.print(f"{len(tree)} forks in {took * 1000:.0f} ms")

        with ThreadPoolExecutor() as pool:
            attempts = list(pool.map(attempt, zip(tree, DEGREES, strict=True)))
        winner, _, _ = min(attempts, key=lambda each: each[1])
        told = winner.promote(cleanup_siblings=True)

        table = Table("fork", "degree", "boot", "work", "error", "")
        for degree, (child, error, seconds) in zip(DEGREES, attempts, strict=True):
            end = "kept" if child is winner else "removed" if child.id in told["deleted"] else "left"
            work = f"{seconds * 1000:.0f} ms"
            table.add_row(child.id[:8], str(degree), f"{child.boot_ms} ms", work, f"{error:.3f}", end)
        console.print(table)

    with winner:  # a sandbox of its own: its parent and its siblings are gone
        console.print(f"the winner still knows: degree {ask(winner)['degree']}")


if __name__ == "__main__":
    main()
