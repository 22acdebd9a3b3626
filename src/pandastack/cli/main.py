"""Where `pandastack` starts. What needs no parsing is answered without it."""

from __future__ import annotations

import sys
from importlib import import_module

import pandastack


def main() -> None:
    """Run the program with the arguments of this process."""
    words = sys.argv[1:]
    if words in (["version"], ["--version"]):
        sys.stdout.write(f"pandastack {pandastack.__version__}\n")
        return
    import_module("pandastack.cli.program").start(words)


if __name__ == "__main__":
    main()
