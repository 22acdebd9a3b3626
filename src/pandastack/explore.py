"""`pandastack.explore`: a module and a function, as the official SDK has both under this one name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pandastack.client import (
    BranchOutcome,
    Candidate,
    ExploreError,
    ExploreResult,
    Sandbox,
    explore,
)

__all__ = ["BranchOutcome", "Candidate", "ExploreError", "ExploreResult", "explore"]


class _Explore(ModuleType):
    """The module, which importing it puts in the place of the package's function: so it can be called."""

    def __call__(
        self,
        sandbox: Sandbox,
        candidates: Sequence[Candidate[Any] | str],
        **options: Any,  # noqa: ANN401  # those of `Sandbox.explore`, whose signature names them
    ) -> ExploreResult[Sandbox]:
        """As the function."""
        return explore(sandbox, candidates, **options)


sys.modules[__name__].__class__ = _Explore
