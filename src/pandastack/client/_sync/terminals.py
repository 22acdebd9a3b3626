# Made from `../_async/terminals.py` by `scripts/unasync`: change that file.
"""`sandbox.terminals`: terminals by name, which go on when nobody looks at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

from pandastack.client import _wire
from pandastack.client._sync.connection import Connection
from pandastack.client._sync.terminal import Terminal, open_terminal
from pandastack.client._values import TerminalInfo
from pandastack.client._wire import Call, query


class Terminals:
    """The terminals of one sandbox.

    They live in it: they sleep, wake and are forked with it, and know nothing of a restart of the server.
    """

    def __init__(self, connection: Connection, sandbox_id: str) -> None:
        self._connection = connection
        self._root = f"/sandboxes/{_wire.segment(sandbox_id)}/terminals"

    def create(
        self,
        name: str | None = None,
        *,
        cmd: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        size: tuple[int, int] = (24, 80),
    ) -> TerminalInfo:
        """Start one, of `size` rows and columns: the user's login shell, or `cmd`, a line for it. Without a
        name it is given one. BadRequestError when one of this name runs.
        """
        rows, columns = size
        given = _wire.clean(name=name, cmd=cmd, cwd=cwd, env=env and dict(env), user=user)
        call = Call(method="POST", path=self._root, json={**given, "rows": rows, "cols": columns})
        return cast("TerminalInfo", self._connection.request(call))

    def list(self) -> Sequence[TerminalInfo]:
        """Those that run, and those ended ones that the sandbox still remembers."""
        return _wire.items_of(self._connection.request(Call(method="GET", path=self._root)))

    def get(self, name: str) -> TerminalInfo:
        """One of them; NotFoundError when there is none."""
        return cast("TerminalInfo", self._connection.request(Call(method="GET", path=self._at(name))))

    def attach(
        self, name: str, *, size: tuple[int, int] | None = None, read_only: bool = False
    ) -> AbstractContextManager[Terminal]:
        """Look at one for a `with` block, its last output first; leaving the block leaves it running.

        It is given the `size` (rows, columns) first; whoever sets it last decides for all who look. One who
        is `read_only` cannot type or set it. NotFoundError when there is none.
        """
        rows, columns = size if size is not None else (None, None)
        params = query(rows=rows, cols=columns, read_only=read_only or None)
        return open_terminal(self._connection, f"{self._at(name)}/ws", params)

    def end(self, name: str) -> None:
        """Hang up, which ends its program; fine when that has ended. NotFoundError when there is none."""
        self._connection.request(Call(method="DELETE", path=self._at(name)))

    def _at(self, name: str) -> str:
        return f"{self._root}/{_wire.segment(name)}"
