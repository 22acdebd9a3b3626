"""The wheel is the whole program: in an empty environment it has agent, fork server, templates, pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
LOOK = """
import time
from pathlib import Path
from pandastack.host.agent import find_agent, find_images_dir
from pandastack.host.paths import Cache
from pandastack.model.clock import Clock
from pandastack.web.look import Look
agent, images = find_agent(Cache(Path("nowhere"))), find_images_dir()
print(agent.stat().st_mode & 0o111 != 0, (agent.parent / "pandastack-zygote.so").is_file())
print(*sorted(path.name for path in images.iterdir()))
page = Look(Clock(time.time, time.monotonic)).page("login.html", next="", form_key="", problem="")
print(page.status_code)
"""


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_the_wheel_is_the_whole_program(tmp_path: Path) -> None:
    run(UV, "build", "--wheel", "--out-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(UV, "venv", "--python", sys.executable, "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "pip", "install", "--python", python, wheel, cwd=tmp_path)
    assert run(python.with_name("pandastack"), "version", cwd=tmp_path).startswith("pandastack ")
    told = run(python, "-c", LOOK, cwd=tmp_path).split()
    assert told == ["True", "True", "agent", "base", "browser", "builder", "code-interpreter", "dev", "200"]
    assert not (ROOT / "src" / "pandastack" / "_bundle").exists()
