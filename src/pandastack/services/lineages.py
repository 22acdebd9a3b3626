"""Where sandboxes come from and what became of them."""

from __future__ import annotations

from functools import partial

from pandastack.model.account import Caller
from pandastack.model.sandbox import Lineage, Sandbox, TreeNode
from pandastack.services.ledger import Ledger
from pandastack.store import sandboxes
from pandastack.store.db import Connection, Database


class Lineages:
    """The verb tree, which looks and changes nothing."""

    def __init__(self, ledger: Ledger, database: Database) -> None:
        self._ledger = ledger
        self._database = database

    async def tree(self, caller: Caller, sandbox_id: str) -> Lineage:
        """All that the sandbox is part of, deleted ones as long as they are remembered.

        Errors: SandboxNotFound.
        """
        found = await self._ledger.find_any(caller, sandbox_id)
        return await self._database.read(partial(_lineage, sandbox=found))


def _lineage(connection: Connection, sandbox: Sandbox) -> Lineage:
    root = [sandbox.id, *sandboxes.ancestors(connection, sandbox)][-1]
    family = sandboxes.descendants(connection, sandbox.workspace, root)
    return Lineage(root, [_node(each) for each in family])


def _node(sandbox: Sandbox) -> TreeNode:
    return TreeNode(
        id=sandbox.id,
        parent_id=sandbox.parent_id,
        status=sandbox.status,
        template=sandbox.template,
        created_at=sandbox.created_at,
        tree_id=sandbox.tree_id or sandbox.metadata.get("fork_tree_id"),
        via_snapshot=sandbox.from_snapshot,
        promoted=sandbox.metadata.get("fork_tree_role") == "winner",
    )
