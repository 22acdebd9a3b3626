"""The rows of the table of endpoints that lead into sandboxes."""

from __future__ import annotations

from pandastack.api import browsers, ports
from pandastack.endpoint import ANY, WEBSOCKET, Endpoint, Handler
from pandastack.model.account import Scope
from pandastack.services.certificates import Certificate, CertificateRequest
from pandastack.services.ports import PortInfo
from pandastack.services.previews import PreviewRequest

ONE = "/v1/sandboxes/{sandbox_id}"
SERVED = "Whatever the service in the sandbox answers"
LINKED = "Whatever the service answers that a link leads to"


def _served(path: str, handler: Handler, summary: str, scope: Scope) -> Endpoint:
    return Endpoint(ANY, path, handler, summary, scope=scope, media="*/*", audited=True)


PORTS: tuple[Endpoint, ...] = (
    Endpoint("GET", f"{ONE}/ports", ports.list_ports, "List ports", scope=Scope.READ, answer=list[PortInfo]),
    Endpoint(
        "POST", f"{ONE}/ports", ports.expose, "Name a port", body=ports.Exposure, answer=PortInfo, status=201
    ),
    Endpoint("DELETE", f"{ONE}/ports/{{port}}", ports.hide, "Take the name off a port", status=204),
    Endpoint(
        "POST",
        f"{ONE}/preview",
        ports.preview,
        "Make a link to a port",
        body=PreviewRequest,
        answer=ports.Link,
    ),
    Endpoint(
        "POST",
        f"{ONE}/preview-token",
        ports.preview,
        "Make a link to a port, by its older name",
        body=PreviewRequest,
        answer=ports.Link,
    ),
    Endpoint(
        "POST",
        f"{ONE}/ssh",
        ports.certify,
        "Make a certificate to come by SSH with",
        body=CertificateRequest,
        answer=Certificate,
    ),
    Endpoint(WEBSOCKET, f"{ONE}/tcp/{{port}}", ports.connect, "A TCP connection to a port"),
    Endpoint(
        "GET",
        f"{ONE}/browser",
        browsers.link,
        "Make a link to its browser",
        query=browsers.HowLong,
        answer=browsers.BrowserLink,
        patient=True,
    ),
    Endpoint(
        "POST",
        f"{ONE}/browser/screenshot",
        browsers.screenshot,
        "A page of its browser as a picture",
        body=browsers.ScreenshotRequest,
        media=browsers.PNG,
        patient=True,
    ),
    Endpoint(
        "POST",
        f"{ONE}/browser/pdf",
        browsers.pdf,
        "A page of its browser as a PDF",
        body=browsers.PageRequest,
        media=browsers.PDF,
        patient=True,
    ),
    _served(f"{ONE}/proxy/{{port}}", ports.proxy, SERVED, Scope.USE),
    _served(f"{ONE}/proxy/{{port}}/{{rest:path}}", ports.proxy, SERVED, Scope.USE),
    _served("/v1/p/{token}", ports.visit, LINKED, Scope.PUBLIC),
    _served("/v1/p/{token}/{rest:path}", ports.visit, LINKED, Scope.PUBLIC),
)
