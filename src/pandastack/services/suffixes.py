"""Names below which anybody may have one of his own, such as `com`, `co.uk` and `github.io`: the list of
publicsuffix.org, as the library brings it. Nothing is fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from publicsuffixlist import PublicSuffixList

from pandastack.errors import InvalidRequest
from pandastack.model.egress import canonical_pattern


class Suffixes:
    """The list, read when it is needed first: that takes a tenth of a second."""

    def __init__(self) -> None:
        self._list: PublicSuffixList | None = None

    async def check(self, hosts: Iterable[str]) -> None:
        """Errors: InvalidRequest for a wildcard over names that belong to strangers, and for no names."""
        parents = [pattern[2:] for pattern in map(canonical_pattern, hosts) if pattern.startswith("*.")]
        if not parents:
            return
        if self._list is None:
            self._list = await asyncio.to_thread(PublicSuffixList)
        for parent in parents:
            if self._list.is_public(parent):
                raise InvalidRequest(
                    f"A secret cannot be bound to *.{parent}: anybody can have a name below {parent}, and "
                    f"would be told the value. Name the hosts, or what is yours, as *.example.{parent}."
                )
