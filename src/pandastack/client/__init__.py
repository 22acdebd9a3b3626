"""The SDK: `Sandbox` and `Client` for blocking code, `AsyncSandbox` and `AsyncClient` for asyncio."""

from __future__ import annotations

from pandastack.client._async.backups import AsyncBackupsAPI
from pandastack.client._async.client import (
    AsyncClient,
    AsyncSandboxAPI,
    AsyncTokensAPI,
    get_default_async_client,
    set_default_async_client,
)
from pandastack.client._async.code import AsyncCodeContext
from pandastack.client._async.commands import AsyncProcess, AsyncSandboxCommands
from pandastack.client._async.connection import AsyncConnection
from pandastack.client._async.dev import AsyncDevMachines
from pandastack.client._async.explore import explore_async
from pandastack.client._async.files import AsyncFiles, AsyncSandboxFilesystem
from pandastack.client._async.lsp import AsyncLanguageServer
from pandastack.client._async.ports import AsyncPortConnection
from pandastack.client._async.sandbox import AsyncSandbox
from pandastack.client._async.snapshots import AsyncSnapshotsAPI
from pandastack.client._async.templates import AsyncTemplatesAPI
from pandastack.client._async.terminal import AsyncTerminal
from pandastack.client._async.terminals import AsyncTerminals
from pandastack.client._async.volumes import AsyncVolumesAPI
from pandastack.client._browser import BrowserLink
from pandastack.client._code import CodeError, Execution, Result
from pandastack.client._config import (
    DEFAULT_API_URL,
    ConfigFile,
    Settings,
    Surroundings,
    config_path,
    read_config,
    read_surroundings,
    settle,
)
from pandastack.client._diff import Diff, FileAt, FileChange, Point, PortAt, ProcessAt
from pandastack.client._errors import (
    APIConnectionError,
    AuthError,
    BackupError,
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
from pandastack.client._explore import BranchOutcome, Candidate, ExploreError, ExploreResult
from pandastack.client._lineage import (
    ForkFailure,
    ForkTree,
    Lineage,
    LineageNode,
    MissedStep,
    Promotion,
    Snapshot,
    Step,
)
from pandastack.client._pair import CancelEvent
from pandastack.client._ports import PortInfo, Preview, SshCertificate
from pandastack.client._retry import CreateRetryEvent
from pandastack.client._sync.backups import BackupsAPI
from pandastack.client._sync.client import (
    Client,
    SandboxAPI,
    TokensAPI,
    get_default_client,
    set_default_client,
)
from pandastack.client._sync.code import CodeContext
from pandastack.client._sync.commands import Process, SandboxCommands
from pandastack.client._sync.connection import Connection
from pandastack.client._sync.dev import DevMachines
from pandastack.client._sync.explore import explore
from pandastack.client._sync.files import Files, SandboxFilesystem
from pandastack.client._sync.lsp import LanguageServer
from pandastack.client._sync.ports import PortConnection
from pandastack.client._sync.sandbox import Sandbox
from pandastack.client._sync.snapshots import SnapshotsAPI
from pandastack.client._sync.templates import TemplatesAPI
from pandastack.client._sync.terminal import Terminal
from pandastack.client._sync.terminals import Terminals
from pandastack.client._sync.volumes import VolumesAPI
from pandastack.client._values import (
    AwakeReason,
    Backup,
    EgressPolicy,
    EgressReceipt,
    EgressTrial,
    Event,
    ExecResult,
    FileEvent,
    FileInfo,
    Lifecycle,
    Metrics,
    NewSecret,
    PackageChange,
    ProcessInfo,
    ProcessOutput,
    RestoreProof,
    Secret,
    Template,
    TemplateBuild,
    TemplateComparison,
    TemplateDifference,
    TerminalInfo,
    Token,
    Volume,
    VolumeAttachment,
    WhyAwake,
    Written,
)
from pandastack.client._wire import CreateOptions, LifecycleOptions, TimeOptions

__all__ = [
    "DEFAULT_API_URL",
    "APIConnectionError",
    "AsyncBackupsAPI",
    "AsyncClient",
    "AsyncCodeContext",
    "AsyncConnection",
    "AsyncDevMachines",
    "AsyncFiles",
    "AsyncLanguageServer",
    "AsyncPortConnection",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSandboxAPI",
    "AsyncSandboxCommands",
    "AsyncSandboxFilesystem",
    "AsyncSnapshotsAPI",
    "AsyncTemplatesAPI",
    "AsyncTerminal",
    "AsyncTerminals",
    "AsyncTokensAPI",
    "AsyncVolumesAPI",
    "AuthError",
    "AwakeReason",
    "Backup",
    "BackupError",
    "BackupsAPI",
    "BadRequestError",
    "BranchOutcome",
    "BrowserLink",
    "CancelEvent",
    "Candidate",
    "Client",
    "CodeContext",
    "CodeError",
    "CommandFailed",
    "ConfigFile",
    "Connection",
    "ConnectionError",
    "CreateCancelled",
    "CreateOptions",
    "CreateRetryEvent",
    "DevMachines",
    "Diff",
    "EgressPolicy",
    "EgressReceipt",
    "EgressTrial",
    "Event",
    "ExecInterrupted",
    "ExecResult",
    "Execution",
    "ExploreError",
    "ExploreResult",
    "FileAt",
    "FileChange",
    "FileEvent",
    "FileInfo",
    "Files",
    "ForkFailure",
    "ForkTree",
    "LanguageServer",
    "Lifecycle",
    "LifecycleOptions",
    "Lineage",
    "LineageNode",
    "Metrics",
    "MissedStep",
    "NewSecret",
    "NotFoundError",
    "PackageChange",
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
    "Result",
    "Sandbox",
    "SandboxAPI",
    "SandboxCommands",
    "SandboxFilesystem",
    "SandboxTimeout",
    "Secret",
    "ServerError",
    "Settings",
    "Snapshot",
    "SnapshotsAPI",
    "SshCertificate",
    "Step",
    "Surroundings",
    "Template",
    "TemplateBuild",
    "TemplateBuildError",
    "TemplateComparison",
    "TemplateDifference",
    "TemplatesAPI",
    "Terminal",
    "TerminalInfo",
    "Terminals",
    "TimeOptions",
    "Token",
    "TokensAPI",
    "Volume",
    "VolumeAttachment",
    "VolumesAPI",
    "WhyAwake",
    "Written",
    "config_path",
    "explore",
    "explore_async",
    "get_default_async_client",
    "get_default_client",
    "read_config",
    "read_surroundings",
    "set_default_async_client",
    "set_default_client",
    "settle",
]
