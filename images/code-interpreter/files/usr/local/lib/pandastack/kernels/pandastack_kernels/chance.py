"""What must not be the same in two sandboxes is renewed in a kernel that has become another one's."""

from __future__ import annotations

import importlib.util
import sys

GENERATION = "/run/pandastack/generation"
"""One line, the machine's id first: the agent writes it anew in each machine, before anything else runs in it."""

RENEWAL = "/usr/local/lib/pandastack/python/warm_python/renewal.py"
SEEDED = ("multiprocessing.process", "numpy.random.mtrand", "random")
PREFIX = "sympy."


class Chance:
    """Knows which machine it is in."""

    def __init__(self) -> None:
        self._machine = _machine()

    def renew(self) -> None:
        """Seed all generators of libraries when the machine is another one than at the last cell.

        One that goes on as itself keeps them, as a program does that has seeded them on purpose.
        """
        machine = _machine()
        if machine in ("", self._machine):
            return
        self._machine = machine
        specification = importlib.util.spec_from_file_location("renewal", RENEWAL)
        renewal = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(renewal)
        for name, renew in renewal.RENEWALS.items():
            if name in sys.modules and (name in SEEDED or name.startswith(PREFIX)):
                renew(sys.modules[name])
        if "tempfile" in sys.modules:
            sys.modules["tempfile"]._name_sequence = None


def _machine() -> str:
    """Nothing when nobody tells."""
    try:
        with open(GENERATION) as file:
            return file.read().partition(" ")[0]
    except OSError:
        return ""
