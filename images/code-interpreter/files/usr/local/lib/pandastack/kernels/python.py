"""The Python kernel: IPython's own, with what its results tell to programs, and with chance of its own after a restore."""

import gc
import logging
import os
import sys

from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

OWN = sys.path.pop(0)
"""Where this file is: nothing that cells import is looked for there."""


def main(connection_file: str, place: str = "") -> None:
    """Serve until somebody ends it. Once it takes connections, the folder of its file is called `place`, if that is told."""
    sys.path.insert(0, OWN)
    from pandastack_kernels import chance, formats, output  # noqa: F401, PLC0415 - only now they are found; one is for the configuration

    sys.path[0] = ""  # as in a notebook, cells find what is in the working directory
    app = IPKernelApp.instance(connection_file=connection_file, config=_config())
    app.initialize([])
    shell = app.shell
    shell.enable_matplotlib("inline")
    formats.install(shell)
    shell.events.register("pre_execute", chance.Chance().renew)
    gc.collect()
    if place:
        os.rename(os.path.dirname(connection_file), place)
    gc.freeze()  # what is loaded stays: looking for garbage in it again and again is the longest part of short cells
    app.start()


def _config() -> Config:
    config = Config()
    config.IPKernelApp.log_level = logging.CRITICAL
    config.IPKernelApp.outstream_class = "pandastack_kernels.output.Output"
    config.IPythonKernel._execute_sleep = 0.0
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    config.Completer.use_jedi = False
    config.InlineBackend.figure_formats = {"png"}
    return config


if __name__ == "__main__":
    main(*sys.argv[1:])
