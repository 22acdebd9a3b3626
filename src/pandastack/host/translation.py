"""How much translated code an emulated machine keeps.

What does not fit is thrown away as a whole and translated anew. Node alone fills 64 MiB, a browser in
use 430: with 128 every page that it opened took twice as long, and a fork server that had rehearsed it into
512 was full, so that each of its children began by throwing all of it away. A machine that has the memory
for large programs gets the room to run them; what is not filled takes none.
"""

from __future__ import annotations

LEAST_MB, MOST_MB = 128, 1024
SMALL_MB = 512
"""Guests with no more memory than this get the least."""


def translated_mb(memory_mb: int) -> int:
    """The buffer for translated code of a machine with so much memory, in MiB."""
    return min(MOST_MB, LEAST_MB + max(0, memory_mb - SMALL_MB) * 7 // 4)
