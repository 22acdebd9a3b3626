"""What the loaded modules have become depends on: where that has changed, a program must load them itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from warm_python.recorder import Recorder

Signature = tuple[int, int, int] | None

FIXED_VARIABLES = ("HOME", "LANG", "LANGUAGE", "TZ", "TZDIR")
"""Variables that are looked at by C code, or by Python before its imports are watched."""

FIXED_PREFIXES = (
    "PYTHON", "LC_", "LD_", "GLIBC_", "MALLOC_", "GCONV_",
    "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "GOTO_", "BLAS_", "MKL_", "NPY_", "NUMPY_", "FREETYPE_", "OPENSSL_",
)  # fmt: skip
"""Variables that are for the interpreter or for C libraries, however they are called."""

CUSTOMS = ("sitecustomize", "usercustomize")
"""Modules that Python loads when it starts, if there are any."""

HONOURED = {"PYTHONUNBUFFERED": "1"}
"""What is for the interpreter and is done for a program that runs warm too."""


class Cold(Exception):
    """Says why a program must be run by a new Python."""


class Surroundings:
    """The environment, the files and the folders that were looked at while modules were loaded."""

    def __init__(self, modules: dict[str, ModuleType], recorder: Recorder) -> None:
        fixed = {*FIXED_VARIABLES, *(name for name in os.environ if name.startswith(FIXED_PREFIXES))}
        self._variables = {name: os.environ.get(name) for name in fixed} | recorder.variables
        self._names = _searched_for(modules)
        self._settings = {path: _signature(path) for path in _settings(modules)}
        self._files = {path: _signature(path) for path in _files(modules.values())}
        self._path = {folder: self._path_content(folder) for folder in sys.path if os.path.isdir(folder)}

    def folders(self) -> list[str]:
        """Where a change may mean that modules are not what they were."""
        return sorted({*self._path, *(os.path.dirname(path) for path in self._files)})

    def check_files(self) -> None:
        """Raise Cold when the file of a module has changed, or another one would be found for it."""
        for path, signature in self._files.items():
            if _signature(path) != signature:
                raise Cold(f"{path} has changed")
        for folder, content in self._path.items():
            if self._path_content(folder) != content:
                raise Cold(f"other modules are in {folder}")

    def check(self, environment: dict[str, str], folder: str) -> None:
        """Raise Cold when modules would be others in this environment, with `folder` in front of the path."""
        for name, value in self._variables.items():
            if environment.get(name) != value:
                raise Cold(f"${name}")
        for name, value in environment.items():
            if (
                name.startswith(FIXED_PREFIXES)
                and name not in self._variables
                and HONOURED.get(name) != value
            ):
                raise Cold(f"${name}")
        for path, signature in self._settings.items():
            if _signature(path) != signature:
                raise Cold(f"{path} has changed")
        if os.path.exists("matplotlibrc"):
            raise Cold("matplotlibrc")
        shadows = [entry.name for entry in _entries(folder or ".") if self._is_found(entry)]
        if shadows:
            raise Cold(f"{', '.join(shadows)} in {folder or 'the current folder'}")

    def _path_content(self, folder: str) -> set[str]:
        """What Python would find in a folder of its path, when it looks for modules that are loaded or when it starts."""
        return {
            entry.name
            for entry in _entries(folder)
            if self._is_found(entry) or entry.name.endswith(".pth") or entry.name.startswith(CUSTOMS)
        }

    def _is_found(self, entry: os.DirEntry[str]) -> bool:
        stem, _, ending = entry.name.partition(".")
        if stem in self._names:
            return ending.endswith(("py", "pyc", "so")) or (not ending and _is_package(entry))
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _searched_for(modules: Iterable[str]) -> frozenset[str]:
    """The names that Python looks for in folders, for its own sake or for a program's."""
    top = {name.partition(".")[0] for name in modules}
    return frozenset(top.difference(sys.builtin_module_names))


def _files(modules: Iterable[ModuleType]) -> set[str]:
    files = {getattr(module, "__file__", None) for module in modules if isinstance(module, ModuleType)}
    return {path for path in files if path and os.path.isfile(path)}


def _settings(modules: dict[str, ModuleType]) -> list[Path]:
    """What was read, or looked for in vain, beside modules."""
    home = Path.home()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    fonts = modules["matplotlib.font_manager"]
    return [
        Path("/etc/localtime"),
        Path("/etc/matplotlibrc"),
        home / ".local/lib" / version / "site-packages",
        home / ".matplotlib",
        home / ".config/matplotlib",
        home / ".config/matplotlib/matplotlibrc",
        home / ".config/matplotlib/stylelib",
        Path(modules["matplotlib"].get_cachedir()) / f"fontlist-v{fonts.FontManager.__version__}.json",
    ]


def _is_package(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and any(
        os.path.exists(f"{entry.path}/__init__.{end}") for end in ("py", "pyc", "so")
    )


def _signature(path: str | Path) -> Signature:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
