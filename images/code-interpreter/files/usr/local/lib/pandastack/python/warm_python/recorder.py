"""What happens while modules are imported: who asks for which module, and what they change for everybody.

Nothing is imported here that Python has not loaded when it starts: its import would not be recorded.
"""

import builtins
import os
import sys
from _frozen_importlib import _calc___package__, _resolve_name
from _warnings import filters

bootstrap = sys.modules["_frozen_importlib"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class Shared:
    """What all modules of a process share and may change when they are imported, at one moment."""

    def __init__(self) -> None:
        self.filters: list[Any] = list(filters)
        self.last_filters: list[Any] = []
        """What was put behind the others."""
        self.finders: list[Any] = list(sys.meta_path)
        self.variables: dict[bytes, bytes] = dict(os.environ._data)

    def added(self, before: "Shared", known: "list[Shared]") -> "Shared | None":
        """What is here and was not there `before`, without what is `known` to come from others; None if that is nothing."""
        new = Shared()
        old = before.filters[-1:]
        end = new.filters.index(*old) if old and old[0] in new.filters else len(new.filters)
        new.filters, new.last_filters = new.filters[:end], new.filters[end:]
        for other in (before, *known):
            new.filters = [one for one in new.filters if one not in other.filters]
            new.last_filters = [
                one for one in new.last_filters if one not in other.filters + other.last_filters
            ]
            new.finders = [one for one in new.finders if one not in other.finders]
            new.variables = {
                name: value for name, value in new.variables.items() if name not in other.variables
            }
        return new if new.filters or new.last_filters or new.finders or new.variables else None


class Recorder:
    """Watches all imports while it is entered.

    Whatever is imported while the body of module X runs belongs to X: a program that has X has that too.
    """

    def __init__(self) -> None:
        self.before = Shared()
        self.needs: dict[str, set[str]] = {"": set()}
        """By module: the modules that its body asked for itself."""
        self.made: set[str] = set()
        """Modules that another one has put in place, without an import."""
        self.added: dict[str, Shared] = {}
        """By module: what its body has changed for all."""
        self.variables: dict[str, str | None] = {}
        """The variables of the environment that were looked at, as they were before anybody changed them."""
        self._known = frozenset(sys.modules)
        self._running = [""]
        self._import = builtins.__import__
        self._gcd_import = bootstrap._gcd_import
        self._load = bootstrap._load_unlocked
        self._variable = os._Environ.__getitem__

    def __enter__(self) -> "Recorder":
        builtins.__import__ = self._on_import
        bootstrap._gcd_import = self._on_gcd_import
        bootstrap._load_unlocked = self._on_load
        os._Environ.__getitem__ = lambda environ, key: self._on_variable(environ, key)
        return self

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._import
        bootstrap._gcd_import = self._gcd_import
        bootstrap._load_unlocked = self._load
        os._Environ.__getitem__ = self._variable

    def _on_import(
        self,
        name: str,
        globals: "Mapping[str, Any] | None" = None,
        locals: "Mapping[str, Any] | None" = None,
        fromlist: "Sequence[str] | None" = (),
        level: int = 0,
    ) -> "ModuleType":
        module = self._import(name, globals, locals, fromlist, level)
        absolute = _resolve_name(name, _calc___package__(globals), level) if level else name
        self._need(absolute)
        for item in fromlist or ():
            self._need(f"{absolute}.{item}")
        return module

    def _on_gcd_import(self, name: str, package: "str | None" = None, level: int = 0) -> "ModuleType":
        module = self._gcd_import(name, package, level)
        self._need(_resolve_name(name, package, level) if level else name)
        return module

    def _on_load(self, spec: "ModuleSpec") -> "ModuleType":
        self._note_made()
        self._running.append(spec.name)
        self.needs[spec.name] = set()
        before = Shared()
        try:
            return self._load(spec)
        finally:
            self._note_made()
            self._note_added(before)
            self._running.pop()
            self._need(spec.name)

    def _note_made(self) -> None:
        for name in sys.modules.keys() - self._known - self.needs.keys():
            self.made.add(name)
            self.needs[name] = set()
            self.needs[self._running[-1]].add(name)

    def _note_added(self, before: Shared) -> None:
        added = Shared().added(before, list(self.added.values()))
        if added:
            self.added[self._running[-1]] = added

    def _on_variable(self, environ: "os._Environ[str]", key: str) -> str:
        value = self.before.variables.get(os.fsencode(key))
        self.variables[os.fsdecode(key)] = None if value is None else os.fsdecode(value)
        return self._variable(environ, key)

    def _need(self, name: str) -> None:
        """The module that runs has asked for module `name`, and so for the packages that it is in."""
        mine = self.needs[self._running[-1]]
        while name:
            if name in sys.modules:
                mine.add(name)
            name = name.rpartition(".")[0]
