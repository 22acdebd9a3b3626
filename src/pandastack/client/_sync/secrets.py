# Made from `../_async/secrets.py` by `scripts/unasync`: change that file.
"""The secrets of a sandbox, which it never has itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from urllib.parse import quote

from pandastack.client._sync.handle import Handle
from pandastack.client._values import Secret


class SecretVerbs(Handle):
    """The verbs of a sandbox that are about its secrets. None of them wakes it."""

    def set_secret(
        self, name: str, value: str, hosts: Sequence[str], *, headers: Sequence[str] = ()
    ) -> Secret:
        """Have `value` put into its requests over TLS to `hosts`, where the placeholder stands in a header,
        or only in `headers`. Commands that start from now on have the placeholder in the variable `name`; one
        that is set anew keeps it.
        """
        body = {"value": value, "hosts": list(hosts), "headers": list(headers)}
        return cast("Secret", self._verb("PUT", f"secrets/{quote(name, safe='')}", body))

    def secrets(self) -> list[Secret]:
        """What there is, without values, by name."""
        return cast("list[Secret]", (self._verb("GET", "secrets"))["secrets"])

    def remove_secret(self, name: str) -> None:
        """Have it put in no more, from the next request on; fine when there is none."""
        self._verb("DELETE", f"secrets/{quote(name, safe='')}")
