"""The one error tree.

    PandastackError
     ├── Unauthorized 401        no valid credential                       (AuthError of the SDK)
     ├── NotFound 404            (NotFoundError)
     ├── CommandTimeout 500      a command was killed at its deadline      (SandboxTimeout)
     │    └── CellTimeout 500         a cell was interrupted at its deadline
     ├── RequestRefused          every other 4xx                           (BadRequestError)
     │    ├── InvalidRequest 400      the request cannot be understood
     │    │    └── TooLarge 413
     │    ├── Forbidden 403
     │    ├── Conflict 409            the object is not in the state it takes
     │    │    ├── IdempotencyMismatch 422
     │    │    ├── VolumeBusy 409     somebody has it who cannot share it
     │    │    ├── VolumeExists 409
     │    │    ├── TemplateExists 409
     │    │    └── NotSupported 409   this host, driver or template cannot do that, and says why
     │    ├── FileRefused 409         the guest's file system refused
     │    ├── ArchiveRefused 400      a file that is to be imported is forged, damaged or cut short
     │    ├── QuotaExceeded 429       final
     │    └── RateLimited 429         retry
     └── ServerError             every other 5xx
          ├── MachineError 500        the VMM or the guest failed
          │    ├── BootFailed 500
          │    ├── PostureViolation 500
          │    ├── BuildFailed 500     a template's files could not be made
          │    └── GuestUnreachable 503
          ├── KernelDied 500          a context's kernel has ended, and what it knew is gone
          ├── PortClosed 502          a service in the guest takes no connection, or answers nonsense
          ├── BrowserDown 503         the sandbox's browser does not answer now: retry
          ├── NotIsolated 503         this host cannot keep tenants apart, and was told to
          ├── BlobsDown 503           the blob store does not answer: retry
          ├── BackupDamaged 500       what was kept is not what was given
          ├── NoCapacity 503          retry
          ├── NoSpace 507             retry
          ├── OutcomeUnknown 504      the order was sent, the answer was lost: ask by id
          └── InternalError 500       a bug of ours

Each class is a code, an HTTP status and whether a client may send the same request again; each instance
carries a sentence for a person. `to_body` and `from_body` are the two ends of the wire. No permanent error
may contain "connection refused", "no route to host" or "i/o timeout": the SDK takes these for a machine that
warms up and waits.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PandastackError(Exception):
    """Base of everything that PandaStack raises on purpose."""

    code: ClassVar[str] = "internal.error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    retry_after: ClassVar[float | None] = None

    def __init__(self, message: str, **details: Any) -> None:  # noqa: ANN401  # any JSON value
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def to_body(self) -> dict[str, Any]:
        """The JSON object of the wire: `error` is always a string, the rest are siblings."""
        body: dict[str, Any] = {"error": self.message, "code": self.code, "retryable": self.retryable}
        if self.details:
            body["details"] = self.details
        return body


class RequestRefused(PandastackError):
    """The server understood who asks and will not do it: every 4xx but 401 and 404."""

    code, status = "request.refused", 400


class ServerError(PandastackError):
    """The server could not do what it should: every 5xx but a command's own deadline."""

    code, status = "server.error", 500


class InvalidRequest(RequestRefused):
    """The request cannot be understood; sending it again will not help."""

    code, status = "validation.invalid", 400


class TooLarge(InvalidRequest):
    """A body, a frame or a field is larger than the documented limit."""

    code, status = "validation.too_large", 413


class Unauthorized(PandastackError):
    """No valid credential came with the request."""

    code, status = "auth.invalid_token", 401


class Forbidden(RequestRefused):
    """The credential is valid and may not do this."""

    code, status = "auth.forbidden", 403


class NotFound(PandastackError):
    """No such object, or not one of the caller's."""

    code, status = "not_found", 404


class SandboxNotFound(NotFound):
    """No such sandbox, or not one of the caller's."""

    code = "sandbox.not_found"


class TemplateNotFound(NotFound):
    """No such template on this installation."""

    code = "template.not_found"


class SnapshotNotFound(NotFound):
    """No such snapshot, or not one of the caller's."""

    code = "snapshot.not_found"


class VolumeNotFound(NotFound):
    """No such volume, or not one of the caller's."""

    code = "volume.not_found"


class BackupNotFound(NotFound):
    """No such backup, or not one of the caller's, or one that never became whole."""

    code = "backup.not_found"


class FileMissing(NotFound):
    """The path does not exist in the guest."""

    code = "file.not_found"


class Conflict(RequestRefused):
    """The object is not in a state that takes this verb."""

    code, status = "sandbox.invalid_state", 409


class IdempotencyMismatch(Conflict):
    """The same Idempotency-Key came with another request."""

    code, status = "idempotency.mismatch", 422


class InFlight(Conflict):
    """The same request is being carried out already; ask again for its outcome."""

    code, retryable, retry_after = "idempotency.in_flight", True, 1.0


class VolumeBusy(Conflict):
    """A sandbox has the volume, and cannot share it; `details.sandboxes` names who."""

    code = "volume.busy"


class VolumeExists(Conflict):
    """The workspace has a volume of this name."""

    code = "volume.exists"


class TemplateExists(Conflict):
    """The workspace has a template of that name."""

    code = "template.exists"


class TemplateNotVerifiable(Conflict):
    """What the version was built of is not there any more, or is not whole."""

    code = "template.not_verifiable"


class NotSupported(Conflict):
    """This host, driver or template cannot do that; the sentence says why."""

    code = "not_supported"


class QuotaExceeded(RequestRefused):
    """A limit of the account; final until something is deleted."""

    code, status = "quota.sandboxes_exceeded", 429


class SnapshotQuotaExceeded(QuotaExceeded):
    """The workspace keeps as many snapshots, or bytes of them, as it may; nothing was paused or taken."""

    code = "quota.snapshots_exceeded"


class TemplateQuotaExceeded(QuotaExceeded):
    """The workspace has as many versions of templates as it may."""

    code = "quota.templates_exceeded"


class VolumeQuotaExceeded(QuotaExceeded):
    """The volumes of the workspace may hold no more in all; nothing was made or grown."""

    code = "quota.volumes_exceeded"


class ArchiveRefused(RequestRefused):
    """What was to be imported has no seal of a key that this server has, is damaged or was cut short; nothing
    of it was kept. `details` name the file in it and the chunk, as far as they are known.
    """

    code = "snapshot.archive_refused"


class RateLimited(RequestRefused):
    """Too many requests; may be sent again after `retry_after` seconds."""

    code, status, retryable, retry_after = "rate_limit.api", 429, True, 1.0


class CommandTimeout(PandastackError):
    """A command was killed at its deadline, with all that descends from it."""

    code, status = "command.timeout", 500


class CellTimeout(CommandTimeout):
    """A cell was interrupted at its deadline; its context stays, unless the sentence says otherwise."""

    code = "cell.timeout"


class KernelDied(ServerError):
    """A context's kernel has ended by itself; the sentence says how. A restart gives the context another."""

    code = "kernel.died"


class FileRefused(RequestRefused):
    """The guest's file system refused the operation (permissions, a directory, not empty …)."""

    code, status = "file.refused", 409


class MachineError(ServerError):
    """The VMM or the guest failed; the sentence ends with the VMM's last lines where there are any."""

    code, status = "machine.failed", 500


class BootFailed(MachineError):
    """A machine did not come up; `details.console` holds the last console lines."""

    code = "sandbox.boot_failed"


class PostureViolation(MachineError):
    """A machine's process may do more than it should; it was ended, and nothing of it is left."""

    code = "sandbox.posture_violation"


class BuildFailed(MachineError):
    """A template's files could not be made; the sentence says what to do next. Nothing half-made is left."""

    code = "template.build_failed"


class SnapshotRefused(MachineError):
    """A snapshot does not fit this driver, version, CPU model or mode, or is damaged; nothing was started."""

    code = "snapshot.refused"


class GuestUnreachable(MachineError):
    """The guest's agent does not answer although the machine runs."""

    code, status, retryable, retry_after = "sandbox.guest_unreachable", 503, True, 1.0


class PortClosed(ServerError):
    """A service in the guest takes no connection, broke one off, or what it says is no answer."""

    code, status = "port.closed", 502


class BrowserDown(ServerError):
    """The sandbox's browser does not answer now: it has ended and is started again, or there is none."""

    code, status, retryable, retry_after = "browser.down", 503, True, 2.0


class NotIsolated(ServerError):
    """The host is for several tenants and cannot keep them apart: it has not started, and says why."""

    code, status = "host.not_isolated", 503


class BlobsDown(ServerError):
    """The blob store does not answer, or not as it should; nothing that was kept is changed."""

    code, status, retryable, retry_after = "blobs.unavailable", 503, True, 5.0


class BackupDamaged(ServerError):
    """What the blob store gave back is not what it was given; `details.chunks` names what is wrong. Nothing
    was restored of it.
    """

    code = "backup.damaged"


class NoCapacity(ServerError):
    """No host has room now; nothing was created."""

    code, status, retryable, retry_after = "capacity.unavailable", 503, True, 2.0


class NoSpace(ServerError):
    """The disk of the host is full; nothing was created or changed."""

    code, status, retryable, retry_after = "capacity.disk_full", 507, True, 5.0


class OutcomeUnknown(ServerError):
    """The order was sent and its answer was lost: it may or may not have happened. Ask by id."""

    code, status = "outcome.unknown", 504


class InternalError(ServerError):
    """A bug of ours; the request id finds it in the log."""

    code = "internal.error"


def _tree(root: type[PandastackError]) -> dict[str, type[PandastackError]]:
    found = {root.code: root} if "code" in vars(root) else {}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_body(body: object, status: int) -> PandastackError:
    """Rebuild the error of an HTTP answer, the class by its `code`, else by its status.

    `body` is the decoded JSON value or text of any server; the message is the first non-empty of `error`,
    `message` and `detail`.
    """
    fields: dict[str, Any] = body if isinstance(body, dict) else {}
    message = next((str(fields[key]) for key in ("error", "message", "detail") if fields.get(key)), "")
    if not message:
        message = body if isinstance(body, str) and body else f"The server answered HTTP {status}."
    known = _tree(PandastackError)
    cls = known.get(str(fields.get("code", ""))) or _by_status(status)
    details = fields.get("details")
    return cls(message, **(details if isinstance(details, dict) else {}))


def _by_status(status: int) -> type[PandastackError]:
    table: dict[int, type[PandastackError]] = {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        413: TooLarge,
        422: IdempotencyMismatch,
        429: RateLimited,
        503: NoCapacity,
        504: OutcomeUnknown,
        507: NoSpace,
    }
    if status in table:
        return table[status]
    return InternalError if status >= 500 else InvalidRequest
