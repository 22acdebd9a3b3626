"""The errors of the SDK under the official SDK's module name; the tree itself is drawn in
`pandastack.errors`.
"""

from __future__ import annotations

from pandastack.client import (
    APIConnectionError,
    AuthError,
    BadRequestError,
    CommandFailed,
    ConnectionError,
    CreateCancelled,
    ExecInterrupted,
    NotFoundError,
    PandastackError,
    SandboxTimeout,
    ServerError,
    TemplateBuildError,
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
    "TemplateBuildError",
]
