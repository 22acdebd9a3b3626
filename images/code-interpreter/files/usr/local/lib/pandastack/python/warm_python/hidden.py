"""Modules that are loaded and that no program sees before it imports them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from warm_python.recorder import Recorder, Shared

Renewal = Callable[[ModuleType], None]


class Hidden:
    """A finder of modules, asked before Python's own: a program finds what Python would find, only loaded already.

    A module comes with all that its import would have brought in, and with nothing else. It is given out once: what a
    program loads anew is loaded as ever.
    """

    def __init__(self, at_start: frozenset[str], own: str, renewals: dict[str, Renewal]) -> None:
        self._at_start = at_start
        self._own = own
        self._renewals = renewals
        self._path = frozenset(sys.path)
        self._all: dict[str, ModuleType] = {}
        self._kept = {name: sys.modules[name] for name in at_start - {"__main__", "builtins", "sys"}}
        self._waiting: dict[str, ModuleType] = {}
        self._given: list[str] = []
        self._names: list[str] = []
        self._parents: dict[str, ModuleType | None] = {}
        self._detached: set[str] = set()
        self._needs: dict[str, int] = {}
        self._added: dict[str, Shared] = {}

    def hide(self, recorder: Recorder) -> None:
        """Take away all modules that a Python that has just started does not have, and what their import changed."""
        new = [name for name in sys.modules if name not in self._at_start]
        self._all = {name: sys.modules[name] for name in new if self._is_worth_hiding(name)}
        self._parents = {name: sys.modules.get(name.rpartition(".")[0]) for name in self._all}
        self._added = recorder.added
        self._waiting = dict(self._all)
        self._names = list(self._all)
        for name in new:
            if name not in recorder.made:
                self._detach(name)
        self._needs = _closures(recorder.needs, list(self._all))
        for name in new:
            del sys.modules[name]
        _forget_warnings(self._all.values())
        _set_filters(recorder.before.filters)
        sys.meta_path[:] = [self, *recorder.before.finders]
        for name in {name for added in self._added.values() for name in added.variables}:
            del os.environb[name]
        self._importers = sys.path_importer_cache  # it knows all files there are: better kept

    def _is_worth_hiding(self, name: str) -> bool:
        """Not what is our own, nor the program's main module by a second name: it must not be held by anybody."""
        return name.partition(".")[0] != self._own and sys.modules[name] is not sys.modules["__main__"]

    def modules(self) -> dict[str, ModuleType]:
        """All of them, hidden or given out."""
        return self._all

    def withdraw(self) -> None:
        """At the end of a program take away what it was given: to tear that down takes long and serves nobody."""
        for name in (*self._given, *self._kept):
            module = self._all.get(name) or self._kept[name]
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What Python's own finders would say, with a loader that has loaded already; None to let them say it."""
        module = self._waiting.get(name)
        if module is None or not self._is_what_python_finds(name):
            return None
        return _specification(name, module, self)

    def give(self, name: str) -> ModuleType:
        """Give a module out, with all that it needs."""
        wanted = self._needs[name]
        while wanted:
            place = (wanted & -wanted).bit_length() - 1
            wanted &= wanted - 1
            if self._names[place] in self._waiting:
                self._give_one(self._names[place])
        return self._all[name]

    def _give_one(self, name: str) -> None:
        module = self._waiting.pop(name)
        self._given.append(name)
        if sys.modules.setdefault(name, module) is not module:
            return
        parent = self._parents[name]
        if name in self._detached and parent is not None:
            setattr(parent, name.rpartition(".")[2], module)
        if name in self._added:
            _repeat(self._added[name])
        renew = self._renewals.get(name)
        if renew is not None:
            renew(module)

    def _detach(self, name: str) -> None:
        """Without its submodule a package is as it was before that was imported."""
        parent, _, last = name.rpartition(".")
        package = sys.modules.get(parent)
        if isinstance(package, ModuleType) and vars(package).get(last) is sys.modules[name]:
            delattr(package, last)
            self._detached.add(name)

    def _is_what_python_finds(self, name: str) -> bool:
        parent = self._parents[name]
        if parent is not None:
            return sys.modules.get(name.rpartition(".")[0]) is parent
        return name in sys.builtin_module_names or PathFinder.find_spec(name, self._foreign_path()) is None

    def _foreign_path(self) -> list[str]:
        """What a program has in front of the interpreter's own folders."""
        foreign = []
        for entry in sys.path:
            if entry in self._path:
                break
            foreign.append(entry)
        return foreign


class _Loader:
    """Gives a hidden module out instead of loading it; else what the module's own loader is."""

    def __init__(self, hidden: Hidden, own: ModuleSpec | None) -> None:
        self._hidden = hidden
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._hidden.give(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed: only what the import has just written over is set back."""
        if self._own is not None:
            module.__spec__ = self._own

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any loader's
        return getattr(self._own.loader if self._own else None, name)


def _specification(name: str, module: ModuleType, hidden: Hidden) -> ModuleSpec:
    own = getattr(module, "__spec__", None)
    spec = ModuleSpec(name, _Loader(hidden, own))
    if own is not None:
        spec.origin, spec.submodule_search_locations = own.origin, own.submodule_search_locations
        spec.has_location, spec.cached = own.has_location, own.cached
    return spec


def _closures(needs: dict[str, set[str]], names: list[str]) -> dict[str, int]:
    """For each module all that it needs, directly or not, and itself: a bit for each place in `names`.

    As numbers they are small and lie together: to go through them writes to little of the shared memory.
    """
    places = {name: place for place, name in enumerate(names)}
    return {name: _closure(name, needs, places) for name in names}


def _closure(name: str, needs: dict[str, set[str]], places: dict[str, int]) -> int:
    found, todo, bits = {name}, [name], 0
    while todo:
        one = todo.pop()
        bits |= 1 << places[one]
        new = {need for need in needs.get(one, ()) if need in places} - found
        found |= new
        todo.extend(new)
    return bits


def _forget_warnings(modules: Iterable[ModuleType]) -> None:
    """What was warned of here is to be warned of there."""
    for module in modules:
        if isinstance(module, ModuleType):
            vars(module).pop("__warningregistry__", None)


def _repeat(added: Shared) -> None:
    """What the import of a module has changed it changes again."""
    _set_filters([*added.filters, *warnings.filters, *added.last_filters])
    sys.meta_path.extend(added.finders)
    for variable, value in added.variables.items():
        os.environb.setdefault(variable, value)


def _set_filters(filters: list[tuple[Any, ...]]) -> None:
    warnings.filters[:] = filters
    warnings._filters_mutated()
