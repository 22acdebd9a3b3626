"""The fuzz targets over their corpus, built with the sanitizers by whatever compiler is there."""

import subprocess
from pathlib import Path

import pytest

from .conftest import GUEST


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the replaying drivers."""
    out = tmp_path_factory.mktemp("targets")
    subprocess.run(["make", "-s", "-C", str(GUEST), f"OUT={out}", "replay"], check=True, timeout=300)
    return out


@pytest.mark.parametrize("name", ["fields", "session"])
@pytest.mark.timeout(300)
def test_the_corpus_runs_clean(targets: Path, name: str) -> None:
    inputs = sorted((GUEST / "fuzz" / "corpus" / name).iterdir())
    assert len(inputs) > 20
    done = subprocess.run(
        [targets / f"replay-{name}", *inputs], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{len(inputs)} inputs\n")
