"""`pandastack sandbox egress` and `receipts`: what a sandbox may reach, and what it has reached."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack.cli.session import SandboxId, session_of

if TYPE_CHECKING:
    from pandastack import EgressPolicy, EgressReceipt

app = typer.Typer(add_completion=False)

Internet = Annotated[
    bool | None, typer.Option("--internet/--no-internet", help="Whether it reaches anything at all.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="NAME|CIDR", help="Only this, and what else is allowed; again for more."),
]
Deny = Annotated[
    list[str] | None, typer.Option("--deny", metavar="NAME|CIDR", help="Never this; again for more.")
]
Ports = Annotated[
    list[str] | None, typer.Option("--port", metavar="N|N-M", help="Only these ports; again for more.")
]
Bandwidth = Annotated[float | None, typer.Option(metavar="MBPS", help="At most so many megabits a second.")]


def policy_of(
    internet: bool | None,
    allow: list[str] | None,
    deny: list[str] | None,
    ports: list[str] | None,
    bandwidth: float | None,
) -> EgressPolicy:
    """The policy that the options say; empty when none was given."""
    policy: EgressPolicy = {}
    if internet is not None:
        policy["internet"] = "on" if internet else "off"
    if allow:
        policy["allow_cidrs"], policy["allow_domains"] = _parted(allow)
    if deny:
        policy["deny_cidrs"], policy["deny_domains"] = _parted(deny)
    if ports:
        policy["ports"] = [int(port) if port.isdigit() else port for port in ports]
    if bandwidth is not None:
        policy["bandwidth_mbps"] = bandwidth
    return policy


@app.command()
def egress(  # each is an option of the command line
    ctx: typer.Context,
    sandbox_id: SandboxId,
    internet: Internet = None,
    allow: Allow = None,
    deny: Deny = None,
    port: Ports = None,
    bandwidth: Bandwidth = None,
) -> None:
    """Show what a sandbox may reach, or set it: what is not given is as in a new sandbox."""
    session = session_of(ctx)
    policy = policy_of(internet, allow, deny, port, bandwidth)
    sandbox = session.sandbox(sandbox_id)
    session.fields(dict(sandbox.set_egress(policy) if policy else sandbox.egress))


@app.command()
def receipts(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Show a policy that allows just what was reached.")
    ] = False,
) -> None:
    """List what a sandbox has reached in all of its life, and what was kept from it."""
    session = session_of(ctx)
    sandbox = session.named(sandbox_id)
    if suggest:
        session.fields(dict(sandbox.try_egress({})["suggestion"]))
        return
    told = sandbox.egress_receipts()
    rows = [_row(each) for each in told]
    session.table(told, ("", "DESTINATION", "ADDRESS", "PORT", "OUT", "IN", "RULE"), rows)


def _row(receipt: EgressReceipt) -> tuple[str, ...]:
    return (
        "yes" if receipt["allowed"] else "NO",
        f"{receipt['protocol']} {receipt['name'] or ''}".strip(),
        receipt["address"] or "",
        str(receipt["port"]),
        str(receipt.get("bytes_out", 0)),
        str(receipt.get("bytes_in", 0)),
        receipt["rule"],
    )


def _parted(entries: list[str]) -> tuple[list[str], list[str]]:
    """Networks, single addresses among them, and names."""
    networks: list[str] = []
    names: list[str] = []
    for entry in entries:
        try:
            networks.append(str(ipaddress.ip_network(entry)))
        except ValueError:
            (networks if "/" in entry else names).append(entry)
    return networks, names
