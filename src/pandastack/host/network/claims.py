"""Which slot is whose, for all servers of this machine: one file a slot, made by whoever takes it.

A slot belongs to a server's state directory, which its file names. A server that starts takes back what an
earlier life of it left, and what belongs to a state directory that is not there any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/run/pandastack/slots")


class Claims:
    """The slots of one state directory."""

    def __init__(self, owner: Path, folder: Path = FOLDER) -> None:
        self._owner = str(owner.resolve())
        self._folder = folder
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def take(self, limit: int) -> int | None:
        """The lowest free number below `limit`, which is ours now; None when all are taken."""
        held = {int(path.name) for path in self._files()}
        for number in range(limit):
            if number not in held and self._claim(number):
                return number
        return None

    def give_back(self, number: int) -> None:
        """It is free. Fine when it was."""
        self._file(number).unlink(missing_ok=True)

    def left(self) -> set[int]:
        """Our own, and those of owners that are gone."""
        found = set()
        for path in self._files():
            try:
                owner = path.read_text()
            except FileNotFoundError:
                continue  # given back meanwhile
            if owner == self._owner or (owner and not Path(owner).is_dir()):
                found.add(int(path.name))
        return found

    def _claim(self, number: int) -> bool:
        """By a file that has its content from the first moment on: nobody takes it for one that is left."""
        draft = self._folder / f".{os.getpid()}-{number}"
        draft.write_text(self._owner)
        try:
            os.link(draft, self._file(number))
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _file(self, number: int) -> Path:
        return self._folder / str(number)

    def _files(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if path.name.isdigit())
