"""The yardstick: how long the same VMM binary takes to its monitor's greeting, with no guest in it.

No program can have a machine ready sooner than that, so what a create costs beyond it is ours.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pandastack.errors import MachineError
from pandastack.host import unix
from pandastack.host.network.ability import lacking
from pandastack.host.paths import Cache
from pandastack.host.probe import choose_vmm
from pandastack.host.qemu_command import Vmm
from pandastack.host.qemu_install import find_qemu

DEADLINE = 30.0
"""Seconds until a start that says nothing counts as failed."""


def find_vmm(cache: Cache) -> Vmm:
    """The VMM that a server with this cache uses. MachineError when none was settled on yet."""
    install = find_qemu(cache)
    if install is None:
        raise MachineError("No QEMU was chosen yet: run scripts/setup first.")
    return asyncio.run(choose_vmm(install, cache, dict(os.environ), taps=lacking() is None))


def bare_command(vmm: Vmm, qmp_fd: int) -> list[str]:
    """The driver's binary, machine type, accelerator and processor; no device, disk or kernel, and stopped.

    The monitor gets a listening socket by descriptor, as the driver's does: nobody polls for it.
    """
    return [
        *(str(vmm.binary), *(word for folder in vmm.firmware for word in ("-L", str(folder)))),
        *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
        *("-machine", "microvm", "-accel", vmm.accel, "-cpu", vmm.cpu, "-m", "512M"),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
    ]


def greeting_ms(vmm: Vmm) -> float:
    """Milliseconds from the decision to start until the greeting has been read; nothing is left afterwards.

    MachineError when the process says nothing or something else.
    """
    with TemporaryDirectory(prefix="pandastack-bare-") as directory:
        path = Path(directory) / "qmp"
        with unix.listen(path) as listener, unix.connect(path) as monitor:
            monitor.settimeout(DEADLINE)
            began = time.perf_counter()
            process = subprocess.Popen(
                bare_command(vmm, listener.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=vmm.env,
                pass_fds=(listener.fileno(),),
            )
            listener.close()  # else the end of the process would not be seen on the other side
            try:
                said = monitor.recv(4096)
                elapsed = time.perf_counter() - began
            except OSError as error:
                raise MachineError(f"The VMM does not greet: {error}.") from error
            finally:
                process.kill()
                process.wait()
    if b'"QMP"' not in said:
        raise MachineError(f"The VMM greets with {said[:100]!r}.")
    return elapsed * 1000
