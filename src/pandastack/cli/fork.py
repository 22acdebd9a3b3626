"""`pandastack sandbox …`: the verbs about a sandbox's state."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pandastack import ForkTree, Sandbox
from pandastack.cli.lifecycle import DiskOnly
from pandastack.cli.session import SandboxId, Session, console, pairs, session_of, summary

app = typer.Typer(add_completion=False)


@app.command()
def fork(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, max=16, help="So many children, as one tree.")
    ] = None,
    ttl: Annotated[int | None, typer.Option(help="Seconds that each may idle.")] = None,
    persistent: Annotated[bool, typer.Option("--persistent", help="Never end them for idling.")] = False,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Noted beside each.")
    ] = None,
) -> None:
    """Make a sandbox that goes on from where this one is, and print its id; with --count several, as a table.

    Children of one tree can be promoted: `pandastack sandbox promote CHILD --cleanup` keeps one of them.
    """
    session = session_of(ctx)
    parent, notes = session.named(sandbox_id), pairs(metadata or [], "--metadata")
    began = time.perf_counter()
    if count is None:
        with console(stderr=True).status("forking"):
            child = parent.fork(notes, ttl_seconds=ttl, persistent=persistent)
        typer.echo(summary(child), err=True)
        session.show(child.to_dict(), child.id)
        return
    with console(stderr=True).status(f"forking into {count}"):
        tree = parent.fork_tree(count, notes, ttl_seconds=ttl, persistent=persistent)
    _tell_tree(session, tree, time.perf_counter() - began)


def _tell_tree(session: Session, tree: ForkTree[Sandbox], seconds: float) -> None:
    """Print the children; exit code 1 when one of them did not come up."""
    if session.json:
        told = {"tree_id": tree.tree_id, "snapshot_id": tree.snapshot_id, "errors": tree.errors}
        session.show({**told, "children": [child.to_dict() for child in tree]}, "")
    else:
        rows = [
            (child.id, child.metadata.get("fork_index", ""), child.status, f"{child.boot_ms or 0} ms")
            for child in tree
        ]
        session.table(tree, ("ID", "INDEX", "STATUS", "BOOT"), rows)
        typer.echo(f"tree {tree.tree_id} · {len(tree)} children in {seconds * 1000:.0f} ms", err=True)
    for failure in tree.errors:
        typer.echo(f"pandastack: child {failure['index']} did not come up: {failure['error']}", err=True)
    if tree.errors:
        raise typer.Exit(1)


@app.command()
def promote(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    cleanup: Annotated[bool, typer.Option("--cleanup", help="Destroy the other children.")] = False,
    tree: Annotated[str | None, typer.Option("--tree", metavar="TREE", help="Of this tree.")] = None,
) -> None:
    """Make a child of a fork-tree a sandbox of its own."""
    session = session_of(ctx)
    told = session.named(sandbox_id).promote(cleanup_siblings=cleanup, tree_id=tree)
    session.fields(told)
    if told["failures"]:
        raise typer.Exit(1)


@app.command()
def rollback(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    snapshot_id: Annotated[
        str | None, typer.Argument(metavar="SNAPSHOT", help="As `snapshot ls` shows it.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="As `sandbox timeline` shows it, instead; -1 is the newest.")
    ] = None,
    disk_only: DiskOnly = False,
) -> None:
    """Put a sandbox back to a snapshot of it or of an ancestor; what has happened since is gone."""
    if (snapshot_id is None) == (step is None):
        raise typer.BadParameter("Name a SNAPSHOT, or say --step.")
    session = session_of(ctx)
    with console(stderr=True).status("rolling back"):
        sandbox = session.named(sandbox_id).rollback(snapshot_id, step=step, disk_only=disk_only)
    typer.echo(f"{sandbox.status}, as it was in {snapshot_id or f'step {step}'}", err=True)
    session.show(sandbox.to_dict(), sandbox.id)
