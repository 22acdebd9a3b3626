"""Programs that were written for the official SDK, run with it and with ours, against a server of ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import programs
from .conftest import Server, running

pytestmark = [pytest.mark.wire, pytest.mark.timeout(120, func_only=True)]

FOLDER = Path(programs.__file__).parents[1]
STRICT = [
    f"-Werror::DeprecationWarning:programs.{name}"
    for name in ("basics", "code", "ports", "state", "templates", "volumes")
]
SILENT = "a_silent_command_may_take_forty_seconds"
SPECIAL = {"a_full_house_is_final", "a_long_line_is_worth_waiting_in", SILENT}
"""Those that need a server with settings of its own, and the one that does nothing but wait."""


def run(python: Path, name: str, directory: str, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [python, *STRICT, "-m", "programs", name, directory],
        cwd=FOLDER,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=["official", "ours"])
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter whose `pandastack` is used."""
    if request.param == "ours":
        return Path(sys.executable)
    found: Path = request.getfixturevalue("official_python")
    return found


@pytest.mark.parametrize("name", sorted(set(programs.PROGRAMS) - SPECIAL))
def test_program(name: str, python: Path, server: Server, directory: str) -> None:
    run(python, name, directory, server.environment)


def test_a_silent_command(official_python: Path, server: Server, directory: str) -> None:
    """With both at once: it takes its time."""
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(run, python, SILENT, directory, server.environment)
            for python in (official_python, Path(sys.executable))
        ]
        for each in both:
            each.result()


def test_the_official_sdk_is_unmodified(official_python: Path) -> None:
    asked = "import pandastack; print(pandastack.__version__, pandastack.__file__)"
    told = subprocess.run([official_python, "-c", asked], capture_output=True, text=True, check=True).stdout
    version, file = told.split()
    assert version == "0.10.0"
    assert str(official_python.parent.parent) in file


def test_a_quota_is_not_waited_for(python: Path, tmp_path: Path) -> None:
    with running(tmp_path, "process", {"PANDASTACK_QUOTA_SANDBOXES": "1"}) as server:
        run(python, "a_full_house_is_final", str(tmp_path), server.environment)


def test_a_refusal_for_lack_of_room_is_waited_out(python: Path, tmp_path: Path) -> None:
    settings = {"PANDASTACK_CONCURRENT_CREATES": "1", "PANDASTACK_QUEUE_SECONDS": "0.001"}
    with running(tmp_path, "process", settings) as server:
        run(python, "a_long_line_is_worth_waiting_in", str(tmp_path), server.environment)
