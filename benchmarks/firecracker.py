"""How long a restore by the Firecracker driver takes, jail and all, with a guest of fifty bytes:
`python -m benchmarks.firecracker [--count N]`, as root where there is a /dev/kvm.

From the decision to restore until the guest runs; the guest's own speed has no part in it, so the figure
holds where hardware virtualization is emulated as well. It is not the time of a create: no agent answers, and
the disk is one MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import structs
from tests.vm.firecracker_kit import firecracker_kit
from tests.vm.firecracker_yard import Corner, corner
from tests.vm.tiny_guest import counter_of

from benchmarks.percentiles import summarize
from pandastack.host.driver import SnapshotFiles
from pandastack.host.firecracker_machine import FirecrackerMachine

COUNT = 100
WARM_UP = 3


async def snapshot_of(yard: Corner) -> SnapshotFiles:
    """A whole snapshot of a machine that has counted a little and has ended."""
    machine = await yard.driver.boot(yard.config, yard.home("baked"))
    try:
        while counter_of(machine.pid) < 1000:  # noqa: ASYNC110  # it is told by its memory alone
            await asyncio.sleep(0.01)
        return await machine.snapshot(yard.home("snapshot"))
    finally:
        await machine.stop(0)


async def restored(yard: Corner, snapshot: SnapshotFiles, number: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of one restore, and of its phases."""
    config = structs.replace(yard.config, vm_id=f"{yard.config.vm_id}-{number}")
    home = yard.home(str(number))
    began = time.perf_counter()
    machine: FirecrackerMachine = await yard.driver.restore(snapshot, config, home)
    elapsed = (time.perf_counter() - began) * 1000
    await machine.stop(0)
    return elapsed, machine.phases_ms


async def measure(place: Path, count: int) -> dict[str, object]:
    """The spread of all restores and of each phase."""
    yard = corner(firecracker_kit(), place)
    snapshot = await snapshot_of(yard)
    found = [await restored(yard, snapshot, number) for number in range(count + WARM_UP)][WARM_UP:]
    phases = {name: structs.asdict(summarize([each[name] for _, each in found])) for name in found[0][1]}
    return {"restore_ms": structs.asdict(summarize([total for total, _ in found])), "phases_ms": phases}


def main() -> int:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description="Restores by the Firecracker driver.")
    parser.add_argument("--count", type=int, default=COUNT)
    count = parser.parse_args().count
    if not Path("/dev/kvm").exists():
        sys.stderr.write("There is no /dev/kvm here: nothing was measured.\n")
        return 1
    with TemporaryDirectory(prefix="pandastack-firecracker-") as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), count)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
