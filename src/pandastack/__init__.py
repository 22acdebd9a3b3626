"""PandaStack: every sandbox a microVM of its own.

    from pandastack import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.exec("uname -a").stdout)

What is imported here comes from `pandastack.client`, and is loaded at its first use: the server and the
command line, which live in the same package, never pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandastack.client import (
        APIConnectionError,
        AsyncClient,
        AsyncFiles,
        AsyncPortConnection,
        AsyncProcess,
        AsyncSandbox,
        AsyncSandboxCommands,
        AsyncSandboxFilesystem,
        AsyncSnapshotsAPI,
        AsyncTerminal,
        AsyncVolumesAPI,
        AuthError,
        AwakeReason,
        BadRequestError,
        BranchOutcome,
        Candidate,
        Client,
        CommandFailed,
        ConnectionError,
        CreateCancelled,
        CreateOptions,
        CreateRetryEvent,
        Diff,
        EgressPolicy,
        EgressReceipt,
        EgressTrial,
        Event,
        ExecInterrupted,
        ExecResult,
        ExploreError,
        ExploreResult,
        FileAt,
        FileChange,
        FileEvent,
        FileInfo,
        Files,
        ForkFailure,
        ForkTree,
        Lifecycle,
        LifecycleOptions,
        Lineage,
        LineageNode,
        MissedStep,
        NewSecret,
        NotFoundError,
        PandastackError,
        Point,
        PortAt,
        PortConnection,
        PortInfo,
        Preview,
        Process,
        ProcessAt,
        ProcessInfo,
        ProcessOutput,
        Promotion,
        RestoreProof,
        Sandbox,
        SandboxCommands,
        SandboxFilesystem,
        SandboxTimeout,
        Secret,
        ServerError,
        Snapshot,
        SnapshotsAPI,
        SshCertificate,
        Step,
        Template,
        TemplateBuild,
        TemplateBuildError,
        Terminal,
        TimeOptions,
        Token,
        Volume,
        VolumeAttachment,
        VolumesAPI,
        WhyAwake,
        explore,
        get_default_async_client,
        get_default_client,
        set_default_async_client,
        set_default_client,
    )

    __version__: str

__all__ = [
    "APIConnectionError",
    "AsyncClient",
    "AsyncFiles",
    "AsyncPortConnection",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSandboxCommands",
    "AsyncSandboxFilesystem",
    "AsyncSnapshotsAPI",
    "AsyncTerminal",
    "AsyncVolumesAPI",
    "AuthError",
    "AwakeReason",
    "BadRequestError",
    "BranchOutcome",
    "Candidate",
    "Client",
    "CommandFailed",
    "ConnectionError",
    "CreateCancelled",
    "CreateOptions",
    "CreateRetryEvent",
    "Diff",
    "EgressPolicy",
    "EgressReceipt",
    "EgressTrial",
    "Event",
    "ExecInterrupted",
    "ExecResult",
    "ExploreError",
    "ExploreResult",
    "FileAt",
    "FileChange",
    "FileEvent",
    "FileInfo",
    "Files",
    "ForkFailure",
    "ForkTree",
    "Lifecycle",
    "LifecycleOptions",
    "Lineage",
    "LineageNode",
    "MissedStep",
    "NewSecret",
    "NotFoundError",
    "PandastackError",
    "Point",
    "PortAt",
    "PortConnection",
    "PortInfo",
    "Preview",
    "Process",
    "ProcessAt",
    "ProcessInfo",
    "ProcessOutput",
    "Promotion",
    "RestoreProof",
    "Sandbox",
    "SandboxCommands",
    "SandboxFilesystem",
    "SandboxTimeout",
    "Secret",
    "ServerError",
    "Snapshot",
    "SnapshotsAPI",
    "SshCertificate",
    "Step",
    "Template",
    "TemplateBuild",
    "TemplateBuildError",
    "Terminal",
    "TimeOptions",
    "Token",
    "Volume",
    "VolumeAttachment",
    "VolumesAPI",
    "WhyAwake",
    "__version__",
    "explore",
    "get_default_async_client",
    "get_default_client",
    "set_default_async_client",
    "set_default_client",
]

_MODULES = ("exceptions", "sandbox", "snapshots", "templates", "tokens")
"""Modules that programs written for the official SDK reach as attributes."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("pandastack")
    if name in _MODULES:
        return import_module(f"pandastack.{name}")
    if name in __all__:
        return getattr(import_module("pandastack.client"), name)
    raise AttributeError(f"module 'pandastack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_MODULES])
