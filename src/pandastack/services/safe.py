"""Where the secrets of all sandboxes are kept: their values sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec import structs

from pandastack.errors import InternalError
from pandastack.model.clock import Clock
from pandastack.model.egress import BoundSecret
from pandastack.model.sandbox import Sandbox, SandboxCreate
from pandastack.model.secret import Secret, SecretWish
from pandastack.services.strongbox import Strongbox
from pandastack.services.suffixes import Suffixes
from pandastack.store import secrets
from pandastack.store.db import Connection, Database
from pandastack.store.secrets import SealedSecret
from pandastack.telemetry import logger

Bound = tuple[BoundSecret, ...]
log = logger("secrets")


class Safe:
    """Where the secrets of all sandboxes are kept."""

    def __init__(
        self, database: Database, strongbox: Strongbox, clock: Clock, new_placeholder: Callable[[], str]
    ) -> None:
        self._database = database
        self._strongbox = strongbox
        self._clock = clock
        self._new_placeholder = new_placeholder
        self._suffixes = Suffixes()

    async def check_hosts(self, wishes: Iterable[SecretWish]) -> None:
        """Errors: InvalidRequest for hosts that are nobody's in particular. What was bound to such before is
        not asked again.
        """
        await self._suffixes.check(host for wish in wishes for host in wish.hosts)

    def bound(self, wishes: Mapping[str, SecretWish]) -> Bound:
        """New secrets, each with a placeholder of its own. Errors: InvalidRequest."""
        return tuple(self._bound(name, wish) for name, wish in wishes.items())

    def inherited(self, parents: Bound) -> Bound:
        """The same secrets for a child: its placeholders are its own, and those of its parent are nothing."""
        return tuple(structs.replace(each, placeholder=self._new_placeholder()) for each in parents)

    def comparable(self, request: SandboxCreate) -> SandboxCreate:
        """The same request without the values, but different for different ones: what a key stands for is
        written down.
        """
        marked = {
            name: structs.replace(wish, value=self._strongbox.mark(wish.value))
            for name, wish in request.secrets.items()
        }
        return structs.replace(request, secrets=marked) if marked else request

    async def rows(self, sandbox_id: str) -> list[SealedSecret]:
        """Those of a sandbox, sealed."""
        return await self._database.glance(partial(secrets.of_sandbox, sandbox_id=sandbox_id))

    async def of(self, sandbox: Sandbox) -> Bound:
        """Those of a sandbox, opened. One that cannot be, since the key of this server is another one than
        when it was set, is put in nowhere until it is set again.
        """
        opened = (self._opened(sandbox, row) for row in await self.rows(sandbox.id))
        return tuple(each for each in opened if each is not None)

    def kept(
        self, sandbox: Sandbox, bound: Bound, before: Callable[[Connection], None]
    ) -> Callable[[Connection], None]:
        """What comes `before` in a transaction, and then has them written down, sealed."""
        if not bound:
            return before
        rows = [self.sealed(sandbox, each, None) for each in bound]

        def transaction(connection: Connection) -> None:
            before(connection)
            for row in rows:
                secrets.put(connection, sandbox.id, sandbox.workspace, row)

        return transaction

    def sealed(self, sandbox: Sandbox, bound: BoundSecret, before: Secret | None) -> SealedSecret:
        """One that is to be kept, perhaps in place of what was there `before`."""
        now = self._clock.now()
        told = Secret(
            name=bound.name,
            hosts=bound.hosts,
            headers=bound.headers,
            placeholder=bound.placeholder,
            created_at=before.created_at if before else now,
            changed_at=now,
        )
        return SealedSecret(told, self._strongbox.seal(bound.value, *_place(sandbox, bound.name)))

    def rebound(self, name: str, wish: SecretWish, before: Secret | None) -> BoundSecret:
        """One that is set anew: programs that have its placeholder go on with it. Errors: InvalidRequest."""
        fresh = self._bound(name, wish)
        return structs.replace(fresh, placeholder=before.placeholder) if before else fresh

    def _bound(self, name: str, wish: SecretWish) -> BoundSecret:
        return BoundSecret(name, wish.hosts, self._new_placeholder(), wish.value, wish.headers)

    def _opened(self, sandbox: Sandbox, row: SealedSecret) -> BoundSecret | None:
        told = row.told
        try:
            value = self._strongbox.open(row.sealed, *_place(sandbox, told.name))
        except InternalError:
            log.warning("secret.unreadable", sandbox_id=sandbox.id, name=told.name)
            return None
        return BoundSecret(told.name, told.hosts, told.placeholder, value, told.headers)


def _place(sandbox: Sandbox, name: str) -> tuple[str, ...]:
    return sandbox.workspace, sandbox.id, name
