"""`Sandbox` and its parts under the official SDK's module name."""

from __future__ import annotations

from pandastack.client import (
    CodeContext,
    ExecResult,
    Execution,
    FileInfo,
    Result,
    Sandbox,
    SandboxCommands,
    SandboxFilesystem,
    get_default_client,
    set_default_client,
)

__all__ = [
    "CodeContext",
    "ExecResult",
    "Execution",
    "FileInfo",
    "Result",
    "Sandbox",
    "SandboxCommands",
    "SandboxFilesystem",
    "get_default_client",
    "set_default_client",
]
