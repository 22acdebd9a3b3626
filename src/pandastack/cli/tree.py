"""`pandastack tree`: the relatives of a sandbox, drawn."""

from __future__ import annotations

import typer
from rich.text import Text
from rich.tree import Tree

from pandastack import Lineage, LineageNode
from pandastack.cli.session import SandboxId, age, console, session_of

app = typer.Typer()

STYLES = {"running": "green", "paused": "yellow", "hibernated": "cyan", "failed": "red", "deleted": "dim"}
SHOWN_OF_AN_ID = 8
PIPED_COLUMNS = 1000
"""For a program nothing is cut or wrapped."""


@app.command()
def tree(ctx: typer.Context, sandbox_id: SandboxId) -> None:
    """Draw what a sandbox was forked from and what was forked from it."""
    session = session_of(ctx)
    lineage = session.named(sandbox_id).tree()
    if session.json:
        session.show(lineage, "")
        return
    out = console()
    if not out.is_terminal:
        out.width = PIPED_COLUMNS
    out.print(drawn(lineage, sandbox_id))


def drawn(lineage: Lineage, here: str) -> Tree:
    """The root with all that descends from it, in the order of their making; `here` is marked."""
    nodes = {node["id"]: node for node in lineage["nodes"]}
    children: dict[str | None, list[LineageNode]] = {}
    for node in sorted(lineage["nodes"], key=lambda node: node["created_at"]):
        children.setdefault(node["parent_id"] if node["parent_id"] in nodes else None, []).append(node)
    whole = Tree("", hide_root=True, guide_style="dim")
    waiting = [(whole, node) for node in reversed(children.get(None, []))]
    while waiting:
        above, node = waiting.pop()
        branch = above.add(label(node, is_here=node["id"] == here))
        waiting += [(branch, child) for child in reversed(children.get(node["id"], []))]
    return whole


def label(node: LineageNode, *, is_here: bool) -> Text:
    """One sandbox: who, how it is, how old, what it is made from."""
    status = node["status"]
    text = Text(node["id"], style="bold" if is_here else "")
    text.append(f"  {status}", style=STYLES.get(status, ""))
    text.append(f"  {age(node['created_at'])}  {node['template']}", style="dim")
    if node.get("tree_id"):
        text.append(f"  tree {str(node['tree_id'])[:SHOWN_OF_AN_ID]}", style="dim")
    if is_here:
        text.append("  <- this one", style="bold")
    return text
