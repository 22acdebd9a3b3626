"""What a process can be told, read once and frozen.

`load` merges four sources, the later one wins: the defaults here, a TOML file (one table a process:
`[control]`, `[host]`, `[client]`), the environment (`PANDASTACK_` and the key in capitals), the flags of the
command line. Only a composition root calls it; everything below takes the finished value as an argument.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from pandastack.errors import InvalidRequest

PREFIX = "PANDASTACK_"

ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where an ordinary user's PATH does not look although everybody may run what is there."""

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]


class OnExit(StrEnum):
    """What becomes of the machines when the server ends. KEEP leaves them to be adopted by the next start,
    HIBERNATE keeps what they were doing on the disk and ends those of which that cannot be kept.
    """

    KEEP = "keep"
    HIBERNATE = "hibernate"
    DESTROY = "destroy"


class DriverName(StrEnum):
    """How machines are run. AUTO is Firecracker where root finds it installed and hardware virtualization
    works, else QEMU. PROCESS runs the guest agent as a plain local process, for tests alone.
    """

    AUTO = "auto"
    FIRECRACKER = "firecracker"
    QEMU = "qemu"
    PROCESS = "process"


class NetworkMode(StrEnum):
    """AUTO gives every machine a network of its own where that can be had, SLOTS insists on it, and NONE has
    none lead anywhere.
    """

    AUTO = "auto"
    SLOTS = "slots"
    NONE = "none"


class LogFormat(StrEnum):
    """CONSOLE for people, JSON for programs."""

    CONSOLE = "console"
    JSON = "json"


class ControlConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The control plane. Sizes are bytes, times seconds."""

    listen: str = "127.0.0.1:8080"
    state_dir: Path = Path("/var/lib/pandastack")
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: str = "info"
    bootstrap_token: str | None = None
    """The first admin token; without one a token is made on the first start."""
    workspace: str = "default"
    on_exit: OnExit = OnExit.KEEP
    gateway_listen: str = "127.0.0.1:8081"
    """Where visitors of sandboxes come to; nothing to have none."""
    gateway_connections_per_address: Count = 100
    """More than that of one address are turned away; behind a proxy of yours all have its address."""
    ssh_listen: str = "127.0.0.1:2222"
    """Where who comes by SSH comes to; nothing, or `off`, to have none."""
    ssh_address: str | None = None
    """Where clients of SSH are sent to, `host:port`; None for where it listens."""
    ssh_connections_per_address: Count = 100
    """More than that of one address are turned away; behind a proxy of yours all have its address."""
    preview_suffix: str = "localhost"
    """Preview hosts are `<port>-<sandbox id>.<suffix>`: a domain that serves nothing else."""
    preview_url: str | None = None
    """Where preview links begin, for example `https://preview.example.com`; None for the API's address."""
    preview_secret: str | None = None
    """Signs preview links; without one a secret is made on the first start and kept with the state."""
    dashboard: bool = True
    """Serves pages for people at `/ui`."""

    default_template: str = "code-interpreter"
    default_ttl_seconds: Count = 300
    create_timeout_seconds: Seconds = 300.0
    """Longest wait for one machine to start; a template's first spawn bakes it, which takes most of that."""
    host_timeout_seconds: Seconds = 60.0
    """Longest wait for any other order to a host."""
    concurrent_creates: Count = 2 * (os.cpu_count() or 1)
    """So many machines start at a time; the others wait in line. With one a processor they would idle."""
    queue_seconds: Seconds = 60.0
    """Longest wait in that line, then 503 with Retry-After."""
    default_exec_timeout_seconds: Seconds | None = None
    """For commands that name no timeout of their own; None lets them run."""

    blobs: str | None = None
    """Where backups are kept: `file:///path`, or `s3://bucket/prefix?endpoint=URL&region=NAME`; None is a
    folder of `state_dir`, which is on the disk that they are backups of. One server has it for itself.
    """
    blobs_access_key: str | None = None
    """For a bucket, with `blobs_secret_key`; without them the server comes in as its machine may."""
    blobs_secret_key: str | None = None

    quota_sandboxes: Count = 500
    quota_vcpus: Count | None = None
    quota_memory_mb: Count | None = None
    quota_snapshots: Count | None = None
    quota_snapshot_bytes: Bytes | None = None
    """Of all snapshots together, those that hibernated sandboxes need included."""
    quota_volume_mb: Count | None = None
    """So many MiB may all volumes of a workspace hold together, whatever is in them."""

    max_json_bytes: Bytes = 1 << 20
    max_stdin_bytes: Bytes = 16 << 20
    max_upload_bytes: Bytes = 16 << 30
    max_output_bytes: Bytes = 32 << 20
    """Each of stdout and stderr of a plain exec; of more, the last part is kept and `truncated` set."""

    retention_seconds: Seconds = 86_400.0
    """How long a deleted sandbox's events and cause stay askable, and idempotency keys are honoured."""
    audit_retention_seconds: Seconds = 30 * 86_400.0

    failpoints: str = ""
    """Places at which the server is to fail, for tests: `name=action` joined by `;`."""


class HostConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One machine's host."""

    state_dir: Path = Path("/var/lib/pandastack")
    cache_dir: Path = Path("~/.cache/pandastack")
    driver: DriverName = DriverName.AUTO
    firecracker_dir: Path | None = None
    """Where the programs `firecracker` and `jailer` are; without it they are looked for on the path."""
    firecracker_allow_version: str | None = None
    """One version of them that may be used although holes of it are known, as `1.12.1`."""
    insecure_no_isolation: bool = False
    """Allows the process driver, which has no isolation at all."""
    emulate: bool = False
    """Runs machines emulated even where KVM works."""
    network: NetworkMode = NetworkMode.AUTO
    network_range: str | None = None
    """The addresses of the machines' networks on this host, a /16 that nobody uses; None finds one."""
    networks_ready: Count = 16
    """So many networks are kept ready for machines to come."""
    name_servers: tuple[str, ...] | None = None
    """Who knows the addresses of names, `address` or `address:port`; None asks whom this machine asks."""
    trusted_certificates: Path | None = None
    """A file with the authorities, PEM, by which hosts that secrets are bound to prove their names; None is
    those that this machine trusts.
    """
    archive_keys: Path | None = None
    """A folder with the `archive.key` files of other servers, by any names: what these have exported can be
    imported.
    """
    multi_tenant: bool = False
    """Its machines belong to people who must be kept apart: it does not start where that cannot be done, on
    hardware virtualization and in whole jails.
    """
    accept_isolation: str = ""
    """With `multi_tenant`, what is accepted all the same, by name: `emulated`, `degraded`, or both with a
    comma.
    """
    jail_users: str = "200000-265535"
    """The first and the last of the users, and groups, that machines run as when this program is root, one
    each, and the process that puts secrets in. Nobody else may be one.
    """
    jail_users_dir: Path = Path("/run/pandastack/users")
    """Where it is noted which are taken: one folder for all servers of a machine."""
    disk_mb_per_second: Count = 400
    """So many MiB a second may one machine read of the disk that the state is on, and write to it. Control
    groups of version 1 see no writes that the kernel puts off.
    """
    ready_templates: tuple[str, ...] | None = None
    """The templates that are made ready before the server listens; each other one is at its first create.
    None is all but those that say `on_demand`.
    """
    kept_sizes: Count = 16
    """So many sizes of templates that were asked for, beside their own, stay baked on the disk: those used
    last. Another one is baked again when it is asked for. More are there only while they are in use.
    """
    rehearse: bool = True
    """Has emulated machines start with the code of their template's programs translated. It takes a processor
    some seconds for each template, some time after the template was first wanted.
    """


class ClientConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A program that talks to a server."""

    api: str = "http://127.0.0.1:8080"
    api_key: str | None = None
    timeout_seconds: Seconds = 30.0


ConfigT = TypeVar("ConfigT", ControlConfig, HostConfig, ClientConfig)

TABLES: dict[type[Struct], str] = {ControlConfig: "control", HostConfig: "host", ClientConfig: "client"}


def load(
    kind: type[ConfigT],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> ConfigT:
    """The configuration of one process; flags that are None count as not given.

    Errors: InvalidRequest for a file that cannot be read, an unknown key (with the nearest known name) or a
    value of the wrong type, naming the source.
    """
    merged: dict[str, Any] = {}
    for source, values in (
        (str(file), _from_file(kind, file)),
        ("environment", _from_environment(kind, environment or {})),
        ("command line", {key: value for key, value in (flags or {}).items() if value is not None}),
    ):
        _refuse_unknown(kind, values, source)
        merged |= values
    return _convert(kind, merged)


def _from_file(kind: type[Struct], file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InvalidRequest(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The configuration file {file} is not TOML: {error}.") from error
    for table in tables:
        if table not in TABLES.values():
            raise InvalidRequest(f"{file}: no table [{table}] exists{nearest(table, TABLES.values())}.")
    table_of_kind = tables.get(TABLES[kind], {})
    if not isinstance(table_of_kind, dict):
        raise InvalidRequest(f"{file}: {TABLES[kind]} is a table, not a value.")
    return table_of_kind


def _from_environment(kind: type[Struct], environment: Mapping[str, str]) -> dict[str, Any]:
    """The variables of this kind. One that is nearly a known name is taken for a slip of the pen and refused.

    Any other variable with the prefix may belong to another program of the family. A list is words with
    commas between them.
    """
    mine = set(kind.__struct_fields__)
    known = {field for table in TABLES for field in table.__struct_fields__} | set(CLIENT_VARIABLES)
    found: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX).lower()
        if key in mine:
            is_list = "tuple[" in str(kind.__annotations__[key])
            found[key] = [word.strip() for word in text.split(",") if word.strip()] if is_list else text
        elif key not in known and (hint := nearest(key, mine, likeness=0.8)):
            raise InvalidRequest(f"environment: no setting {name} exists{hint}.")
    return found


CLIENT_VARIABLES = (
    "api_url", "token", "exec_ready_timeout", "max_create_retry_seconds", "preview_host", "config",
)  # fmt: skip
"""Variables that client programs read and no configuration here has a field for."""


def _refuse_unknown(kind: type[Struct], values: Mapping[str, Any], source: str) -> None:
    for key in values:
        if key not in kind.__struct_fields__:
            hint = nearest(key, kind.__struct_fields__)
            raise InvalidRequest(f"{source}: no setting {key!r} exists for {TABLES[kind]}{hint}.")


def _convert(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    try:
        config = msgspec.convert(values, kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"A setting has a wrong value: {error}.") from error
    paths = {
        name: value.expanduser()
        for name in config.__struct_fields__
        if isinstance(value := getattr(config, name), Path)
    }
    return msgspec.structs.replace(config, **paths)


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise NotImplementedError  # msgspec's own way to hear "no such conversion"


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """`; did you mean 'x'?` for a known name that resembles `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return f"; did you mean {close[0]!r}?" if close else ""


def split_address(listen: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` in two. Errors: InvalidRequest."""
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise InvalidRequest(f"listen is host:port, for example 127.0.0.1:8080; got {listen!r}.")
    return host.strip("[]") or "127.0.0.1", int(port)
