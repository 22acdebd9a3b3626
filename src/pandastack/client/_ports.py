"""Ports as values, and the addresses of previews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

LOCAL_PREVIEWS = "localhost:8081"
"""Where the gateway of a server of this machine is, unless it was told otherwise."""
PORT_MOST = 65_535


class PortInfo(TypedDict):
    """A port that has a name or is listened on."""

    port: int
    label: str | None
    listening: bool
    source: Literal["user", "detected"]
    proxy_url: str


class Preview(TypedDict):
    """A link to a port, which whoever has it may use until `expires_at`."""

    url: str
    token: str
    sandbox_id: str
    port: int
    paths: list[str]
    expires_at: str


class SshCertificate(TypedDict):
    """What one comes to a sandbox by SSH with, beside one's key, until `expires_at`: lines as OpenSSH keeps
    them in files, and where the server is.
    """

    certificate: str
    login: str
    host: str
    port: int
    host_key_alias: str
    known_hosts: str
    expires_at: str


def preview_address(
    port: int, sandbox_id: str, api_url: str, preview_host: str | None, scheme: str | None
) -> str:
    """The address of a port of a sandbox. ValueError for what is no port.

    Without a `preview_host` it is the API's host without a leading `api.`; a server of this machine has its
    previews at `*.localhost`, which browsers know. The scheme is HTTPS but for a machine's own.
    """
    if not 0 < port <= PORT_MOST:
        raise ValueError(f"a port is 1 to {PORT_MOST}, not {port}")
    host = urlsplit(api_url).hostname or ""
    if preview_host is None and _is_local(host):
        return f"{scheme or 'http'}://{port}-{sandbox_id}.{LOCAL_PREVIEWS}"
    if preview_host is not None and _is_local(preview_host.partition(":")[0]):
        scheme = scheme or "http"
    return f"{scheme or 'https'}://{port}-{sandbox_id}.{preview_host or host.removeprefix('api.')}"


def ports_of(answer: Any) -> list[PortInfo]:  # noqa: ANN401  # JSON of this server or another
    """The ports of an answer: a list of them, of plain numbers, or an object that has one."""
    found: Sequence[Any] = answer.get("ports", []) if isinstance(answer, Mapping) else answer
    return [_port(each) for each in found]


def _port(each: Any) -> PortInfo:  # noqa: ANN401  # JSON of this server or another
    if isinstance(each, Mapping):
        return PortInfo(**{**_port(each["port"]), **each})
    return PortInfo(port=int(each), label=None, listening=True, source="detected", proxy_url="")


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
