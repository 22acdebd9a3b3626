"""Every Python block of the documentation runs as it is written, against a server with real machines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.conftest import Server, running

from .checkout import ROOT
from .test_docs import Block, blocks

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900, func_only=True),
]

TEMPLATES = "agent,base,browser,builder,code-interpreter,dev"
EXAMPLE_SECONDS = 240
"""Importing pandas takes long on an emulated machine that has other things to do."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Never the process driver: some examples delete files. All that they are made from is ready."""
    settings = {"PANDASTACK_READY_TEMPLATES": TEMPLATES}
    with running(tmp_path_factory.mktemp("docs"), "qemu", settings) as server:
        yield server


def run(server: Server, script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_block_runs(server: Server, tmp_path: Path, block: Block) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.text)
    done = run(server, script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_forks_of_the_example_share_their_work(server: Server, tmp_path: Path) -> None:
    done = run(server, ROOT / "examples" / "fork_tree.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("the worker has 20000 rows in its memory\n4 forks in ")
    assert done.stdout.count("removed") == 3
    assert done.stdout.endswith("the winner still knows: degree 13\n")


def test_the_example_leaves_a_chart(server: Server, tmp_path: Path) -> None:
    done = run(server, ROOT / "examples" / "code_interpreter.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("pulled ")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG\r\n")
