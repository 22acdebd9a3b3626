"""What must not be the same in two programs is made anew when a program is given the module that holds it."""

from __future__ import annotations

import os
import sys
import time
from types import ModuleType


def _seed(module: ModuleType) -> None:
    module.seed()


def _seed_generator(module: ModuleType) -> None:
    module.rgen.seed()


def _seed_random(module: ModuleType) -> None:
    module.rng.seed()


def _seed_dummies(module: ModuleType) -> None:
    module.Dummy._prng.seed()


def _set_start(logging: ModuleType) -> None:
    logging._startTime = time.time()


def _choose_key(process: ModuleType) -> None:
    process.current_process().authkey = os.urandom(32)


def _name_main(multiprocessing: ModuleType) -> None:
    sys.modules["__mp_main__"] = sys.modules["__main__"]


def _set_native_id(threading: ModuleType) -> None:
    threading.main_thread()._set_native_id()


def _open_nowhere(io: ModuleType) -> None:
    """It keeps a file open from its import on, which is no program's that was started with it loaded."""
    io.devnull = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the module's, to its end


def _allow_depth(jedi: ModuleType) -> None:
    """As its import does."""
    sys.setrecursionlimit(DEPTH_OF_JEDI)


def _find_distributions(pkg_resources: ModuleType) -> None:
    """Some may have been installed since."""
    pkg_resources._initialize_master_working_set()


DEPTH_OF_JEDI = 3000

RENEWALS = {
    "IPython.utils.io": _open_nowhere,
    "jedi.api": _allow_depth,
    "logging": _set_start,
    "multiprocessing": _name_main,
    "multiprocessing.process": _choose_key,
    "numpy.random.mtrand": _seed,
    "pkg_resources": _find_distributions,
    "random": _seed,
    "sympy.core.random": _seed_random,
    "sympy.core.symbol": _seed_dummies,
    "sympy.ntheory.ecm": _seed_generator,
    "sympy.ntheory.qs": _seed_generator,
    "threading": _set_native_id,
}
"""What is done with a module that a program is given. The system's generator needs nothing, nor does OpenSSL, which seeds
its own in each new process; the machine's entropy is renewed by every restore."""

FOUND_OUT = (
    ("platform", "_uname_cache"),
    ("platform", "_os_release_cache"),
    ("tempfile", "tempdir"),
    ("tempfile", "_name_sequence"),
    ("uuid", "_node"),
)


def close_files(modules: dict[str, ModuleType]) -> None:
    """Close what modules keep open and are given anew."""
    modules["IPython.utils.io"].devnull.close()


def forget_machine(modules: dict[str, ModuleType]) -> None:
    """Drop what modules have found out about the machine and its user: a sandbox has other answers."""
    for name, variable in FOUND_OUT:
        if name in modules:
            setattr(modules[name], variable, None)
    if "platform" in modules:
        modules["platform"]._platform_cache.clear()
