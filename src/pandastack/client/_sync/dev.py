# Made from `../_async/dev.py` by `scripts/unasync`: change that file.
"""`client.dev`: machines to develop on, by name, each with a home that outlives it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pandastack.client._dev import (
    EDITOR_ANSWERS,
    EDITOR_PORT,
    EDITOR_SECONDS,
    HOME,
    HOME_MB,
    IDLE_SECONDS,
    MARK,
    NAME,
    PROGRAMS,
    TEMPLATE,
    TOLD_BYTES,
    USER,
    home_of,
)
from pandastack.client._errors import NotFoundError
from pandastack.client._sync.connection import Connection
from pandastack.client._sync.sandbox import Sandbox
from pandastack.client._sync.templates import TemplatesAPI
from pandastack.client._sync.volumes import VolumesAPI
from pandastack.client._wire import create_body
from pandastack.errors import Conflict, InvalidRequest, SandboxNotFound, VolumeBusy

Told = Callable[[str], object]
"""Is told what is done next, in a few words."""


class DevMachines:
    """The machines of the template `dev`, one of each name.

    A machine is a persistent sandbox whose home is on the volume `NAME-home`: it sleeps when nobody uses it,
    is woken by whoever comes, and can be deleted and made anew without loss of the home.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._volumes = VolumesAPI(connection)
        self._templates = TemplatesAPI(connection)

    def up(
        self,
        name: str = NAME,
        *,
        size: tuple[int | None, int | None] = (None, None),
        home_mb: int = HOME_MB,
        idle_timeout_seconds: int = IDLE_SECONDS,
        dotfiles: str | None = None,
        on_step: Told = str,
    ) -> Sandbox:
        """Have the machine of this name be awake, with its editor answering; made if there is none.

        `size` (processors, MiB of memory), `home_mb` and `idle_timeout_seconds` are of one that is made now.
        `dotfiles` is the address of a git repository that is cloned in it, or fetched anew, and installed:
        BadRequestError with what that said last, when it fails. The first machine of a server waits some
        minutes for the template.

        Errors: BadRequestError for no name, and for a machine that has ended or a home that another sandbox
        has, with what to do.
        """
        _check(name)
        machine = self._find(name)
        if machine is None:
            machine = self._make(name, size, home_mb, idle_timeout_seconds, on_step)
        else:
            self._wake(machine, name, on_step)
        if dotfiles is not None:
            on_step("installing dotfiles")
            done = machine.exec([PROGRAMS + "dotfiles", dotfiles], 600, user=USER, cwd=HOME)
            if done.exit_code:
                said = (done.stderr.strip() or done.stdout.strip())[-TOLD_BYTES:]
                raise Conflict(f"The dotfiles could not be installed: {said}")
        on_step("waiting for the editor")
        machine.exec(EDITOR_ANSWERS, EDITOR_SECONDS, check=True, user="root")
        return machine

    def editor_url(self, name: str = NAME, *, ttl_seconds: int = 43_200) -> str:
        """A link that opens the editor of a machine for so many seconds. Whoever has it has the machine."""
        machine = self.get(name)
        return machine.visit_url(EDITOR_PORT, ttl_seconds=ttl_seconds)

    def list(self) -> Sequence[Sandbox]:
        """Every machine, by name: `metadata["dev_machine"]`."""
        found = Sandbox.list_on(self._connection)
        return sorted((each for each in found if MARK in each.metadata), key=lambda each: each.metadata[MARK])

    def get(self, name: str = NAME) -> Sandbox:
        """The machine of this name; NotFoundError when there is none. Asking does not wake it."""
        _check(name)
        machine = self._find(name)
        if machine is None:
            raise SandboxNotFound(f"There is no dev machine {name!r}: `pandastack dev up {name}` makes it.")
        return machine

    def down(self, name: str = NAME) -> Sandbox:
        """Have it sleep now, with all that runs in it. Whoever comes wakes it."""
        machine = self.get(name)
        machine.hibernate()
        return machine

    def delete(self, name: str = NAME, *, home: bool = False) -> None:
        """End the machine, and with `home` remove its home, too: all that is in it is gone then. Without,
        the next `up` goes on with that home. NotFoundError when there is nothing of this name.
        """
        _check(name)
        machine = self._find(name)
        if machine is not None:
            machine.kill()
        if home:
            try:
                self._volumes.delete(home_of(name))
            except NotFoundError:
                if machine is None:
                    raise
        elif machine is None:
            self.get(name)

    def _find(self, name: str) -> Sandbox | None:
        return next((each for each in self.list() if each.metadata[MARK] == name), None)

    def _make(
        self, name: str, size: tuple[int | None, int | None], home_mb: int, idle_seconds: int, on_step: Told
    ) -> Sandbox:
        try:
            self._volumes.get(home_of(name))
        except NotFoundError:
            on_step("making the home")
            self._volumes.create(home_of(name), home_mb)
        baked = any(each.name == TEMPLATE and each.baked for each in self._templates.list())
        on_step("making the machine" if baked else "making the template, which takes minutes, once")
        body = create_body(
            template=TEMPLATE,
            sizes=size,
            metadata={MARK: name, "preview": "private"},
            ttl_seconds=None,
            persistent=True,
            from_snapshot=None,
            volumes=[{"name": home_of(name), "path": HOME}],
            env=None,
            times={"idle_timeout_seconds": idle_seconds or None},
        )
        try:
            machine = Sandbox.create_on(self._connection, body)
        except VolumeBusy as error:
            raise Conflict(
                f"The home of {name!r} (volume {home_of(name)}) is in another sandbox: {error} "
                "Delete that one, or give this machine another name."
            ) from error
        machine.exec([PROGRAMS + "home", "mounted"], 120, check=True, user="root", cwd="/")
        return machine

    def _wake(self, machine: Sandbox, name: str, on_step: Told) -> None:
        if machine.status == "hibernated":
            on_step("waking")
            machine.wake()
        elif machine.status == "paused":
            machine.resume()
        elif machine.status != "running":
            raise Conflict(
                f"The machine {name!r} is {machine.status}. `pandastack dev delete {name}` and then "
                f"`pandastack dev up {name}` make a new one with the same home."
            )
        machine.exec([PROGRAMS + "home"], 120, check=True, user="root", cwd="/")
        machine.refresh()


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise InvalidRequest(
            f"A machine's name has up to 40 lower-case letters, digits and hyphens; got {name!r}."
        )
