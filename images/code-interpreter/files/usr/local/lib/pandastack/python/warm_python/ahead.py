"""Loads ahead what programs import, tries it out, and hides it."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Callable

from warm_python.hidden import Hidden
from warm_python.program import Program
from warm_python.recorder import Recorder
from warm_python.renewal import RENEWALS, close_files, forget_machine
from warm_python.surroundings import Surroundings

MODULES = (
    "numpy", "pandas", "matplotlib.pyplot", "seaborn",
    "scipy.cluster", "scipy.fft", "scipy.integrate", "scipy.interpolate", "scipy.io", "scipy.linalg",
    "scipy.ndimage", "scipy.optimize",
    "scipy.signal", "scipy.sparse.linalg", "scipy.spatial", "scipy.special", "scipy.stats",
    "sklearn.cluster", "sklearn.datasets", "sklearn.decomposition", "sklearn.ensemble",
    "sklearn.linear_model", "sklearn.manifold",
    "sklearn.metrics", "sklearn.model_selection", "sklearn.naive_bayes", "sklearn.neighbors",
    "sklearn.neural_network",
    "sklearn.pipeline", "sklearn.preprocessing", "sklearn.svm", "sklearn.tree",
    "sympy", "networkx", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont", "openpyxl", "xlsxwriter", "docx",
    "ipykernel.kernelapp", "matplotlib_inline.backend_inline",
    "pylsp.__main__", "pylsp.plugins.definition", "pylsp.plugins.folding", "pylsp.plugins.highlight",
    "pylsp.plugins.hover", "pylsp.plugins.jedi_completion", "pylsp.plugins.jedi_rename",
    "pylsp.plugins.preload_imports", "pylsp.plugins.pycodestyle_lint", "pylsp.plugins.pyflakes_lint",
    "pylsp.plugins.references", "pylsp.plugins.signature", "pylsp.plugins.symbols",
    "requests", "httpx", "bs4", "lxml.html", "yaml", "jinja2", "sqlalchemy", "sqlite3", "tabulate", "tqdm",
    "argparse", "asyncio", "concurrent.futures", "csv", "dataclasses", "fractions", "glob", "html.parser",
    "http.server", "multiprocessing.pool",
    "secrets", "smtplib", "statistics", "traceback", "unittest", "urllib.request", "xml.etree.ElementTree",
    "zipfile",
)  # fmt: skip
"""What the template's users import; whatever that imports comes with it."""


def load_ahead(at_start: frozenset[str], recorder: Recorder, leave: Callable[[], None]) -> Program:
    """What programs start from; from here on this process has nothing more to load.

    RuntimeError when a module keeps a file open, which it would lose in a program.
    """
    hidden = Hidden(at_start, __name__.partition(".")[0], RENEWALS)
    # Registered before any other, they are called after all others, a program's own too.
    atexit.register(leave)
    atexit.register(hidden.withdraw)
    open_files, depth = _open_files(), sys.getrecursionlimit()
    for name in MODULES:
        importlib.import_module(name)
    importlib.import_module("warm_python.chart").draw_charts()
    close_files(sys.modules)
    sys.setrecursionlimit(depth)
    if _open_files() != open_files:
        raise RuntimeError("a module that was loaded ahead keeps a file open")
    forget_machine(sys.modules)
    hidden.hide(recorder)
    surroundings = Surroundings(hidden.modules(), recorder)
    gc.collect()
    gc.freeze()
    return Program(hidden, surroundings)


def _open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))
