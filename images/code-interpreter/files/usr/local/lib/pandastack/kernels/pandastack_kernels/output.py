"""What cells write, sent in pieces: of a single message with all of it, whoever bounds messages would take nothing."""

from __future__ import annotations

from ipykernel.iostream import OutStream

PIECE = 1 << 18
"""Characters."""


class Output(OutStream):
    """Sends what waits as soon as there is a piece of it, and waits until that has gone."""

    _waiting = 0

    def write(self, string: str) -> int | None:
        """As any text file's."""
        if not isinstance(string, str) or len(string) + self._waiting < PIECE:
            self._waiting += len(string) if isinstance(string, str) else 0
            return super().write(string)
        for start in range(0, len(string), PIECE):
            super().write(string[start : start + PIECE])
            self.flush()
        self._waiting = 0
        return len(string)
