"""A database of its own for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pandastack.model.sandbox import Isolation, Sandbox, SandboxState
from pandastack.store import accounts
from pandastack.store.db import Database, open_database

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)


def sandbox(sandbox_id: str, **values: object) -> Sandbox:
    fields: dict[str, object] = {
        "id": sandbox_id,
        "template": "base",
        "status": SandboxState.CREATING,
        "cpu": 2,
        "memory_mb": 512,
        "created_at": NOON,
        "workspace": "w",
        "host": "h",
        "isolation": Isolation.NONE,
        **values,
    }
    return Sandbox(**fields)  # type: ignore[arg-type]  # the fields of a test are checked by what it asserts


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "control.db") as database:
        await database.write(lambda connection: accounts.recount(connection, "w"))
        yield database
