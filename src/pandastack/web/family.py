"""A lineage as nested lists, without recursion: a chain of forks may be as long as it likes."""

from __future__ import annotations

from msgspec import Struct

from pandastack.model.sandbox import Lineage, TreeNode

SHOWN_MOST = 300


class Branch(Struct, frozen=True):
    """One sandbox of the tree; those that descend from it come next."""

    node: TreeNode
    depth: int
    ends: int
    """So many lists end behind it."""

    opens: bool
    """A list of its children begins behind it."""


def branches(lineage: Lineage) -> list[Branch]:
    """Parents before their children, siblings in the order of their making, at most SHOWN_MOST."""
    order = _ordered(lineage)[:SHOWN_MOST]
    depths = [depth for _, depth in order[1:]] + [0]
    return [
        Branch(node, depth, max(0, depth - after), after > depth)
        for (node, depth), after in zip(order, depths, strict=True)
    ]


def _ordered(lineage: Lineage) -> list[tuple[TreeNode, int]]:
    known = {node.id for node in lineage.nodes}
    children: dict[str | None, list[TreeNode]] = {}
    for node in sorted(lineage.nodes, key=lambda node: node.created_at, reverse=True):
        children.setdefault(node.parent_id if node.parent_id in known else None, []).append(node)
    order = []
    waiting = [(node, 0) for node in children.get(None, [])]
    while waiting:
        node, depth = waiting.pop()
        order.append((node, depth))
        waiting += [(child, depth + 1) for child in children.get(node.id, [])]
    return order
