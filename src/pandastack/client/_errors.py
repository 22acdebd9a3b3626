"""What only a client can meet, and the names that the official SDK gives to the one tree of
`pandastack.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pandastack.errors import (
    CommandTimeout,
    NotFound,
    PandastackError,
    RequestRefused,
    ServerError,
    Unauthorized,
)

__all__ = [
    "APIConnectionError",
    "AuthError",
    "BadRequestError",
    "CommandFailed",
    "ConnectionError",
    "CreateCancelled",
    "ExecInterrupted",
    "NotFoundError",
    "PandastackError",
    "SandboxTimeout",
    "ServerError",
]

AuthError = Unauthorized
NotFoundError = NotFound
BadRequestError = RequestRefused
SandboxTimeout = CommandTimeout

if TYPE_CHECKING:
    from pandastack.client._values import Backup, TemplateBuild


class ConnectionError(PandastackError):  # the official SDK's public name
    """The server could not be reached, or the connection broke before its answer was complete.

    What a request would have changed may have happened: ask before sending it again.
    """

    code = "client.connection"


APIConnectionError = ConnectionError


class ExecInterrupted(PandastackError):
    """The stream of a command ended without its exit code: whether the command went on is unknown."""

    code = "client.exec_interrupted"

    def __init__(self, message: str, *, partial_stdout: str = "", partial_stderr: str = "") -> None:
        super().__init__(message)
        self.partial_stdout = partial_stdout
        self.partial_stderr = partial_stderr


class CommandFailed(PandastackError):
    """A command that was run with `check=True` ended with another exit code than 0."""

    code = "client.command_failed"

    def __init__(self, message: str, *, exit_code: int, stdout: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class TemplateBuildError(PandastackError):
    """A template was not built; `build` is the record of that."""

    code = "client.build_failed"

    def __init__(self, message: str, *, build: TemplateBuild | None = None) -> None:
        super().__init__(message)
        self.build = build


class BackupError(PandastackError):
    """A backup did not become ready; `backup` is the record of that."""

    code = "client.backup_failed"

    def __init__(self, message: str, *, backup: Backup | None = None) -> None:
        super().__init__(message)
        self.backup = backup


class CreateCancelled(PandastackError):
    """A create was given up through its `cancel` event; nothing was sent after the event was set.

    The last refusal for capacity, if there was one, is the `__cause__`.
    """

    code = "client.create_cancelled"
