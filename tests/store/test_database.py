"""Transactions: whole or not at all, one writer at a time, settled before a cancellation goes on."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from pandastack.errors import Conflict, InternalError, NoSpace
from pandastack.model.account import Limits
from pandastack.store import accounts, sandboxes
from pandastack.store.db import Connection, Database, open_database
from pandastack.testing.fixtures import descriptors
from tests.store.conftest import sandbox

pytestmark = pytest.mark.anyio

FREE = Limits(None, None, None)


def add(connection: Connection, sandbox_id: str) -> None:
    assert sandboxes.insert(connection, sandbox(sandbox_id), FREE)


async def exists(database: Database, sandbox_id: str) -> bool:
    return await database.read(partial(sandboxes.find, sandbox_id=sandbox_id)) is not None


async def test_nothing_of_a_transaction_that_fails_is_kept(database: Database) -> None:
    def transaction(connection: Connection) -> None:
        add(connection, "a")
        raise Conflict("changed my mind")

    with pytest.raises(Conflict):
        await database.write(transaction)
    assert not await exists(database, "a")
    await database.write(partial(add, sandbox_id="a"))
    assert await exists(database, "a")


async def test_a_fault_of_the_database_is_told_as_ours(database: Database) -> None:
    await database.write(partial(add, sandbox_id="a"))
    with pytest.raises(InternalError, match="IntegrityError"):
        await database.write(partial(add, sandbox_id="a"))


async def test_a_full_disk_is_told_as_such(database: Database) -> None:
    def transaction(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        for number in range(200):
            row = sandbox(f"s{number}", metadata={"k": "v" * 4000})
            assert sandboxes.insert(connection, row, FREE)

    with pytest.raises(NoSpace):
        await database.write(transaction)
    assert not await exists(database, "s0")


async def test_writes_take_turns(database: Database) -> None:
    inside = 0

    def transaction(connection: Connection) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        time.sleep(0.002)
        inside -= 1

    await asyncio.gather(*(database.write(transaction) for _ in range(10)))


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    def slow(connection: Connection) -> None:
        add(connection, "a")
        time.sleep(0.2)

    writing = asyncio.ensure_future(database.write(slow))
    await asyncio.sleep(0.02)
    assert not await exists(database, "a")
    assert not writing.done()
    await writing
    assert await exists(database, "a")


async def test_a_glance_is_answered_from_memory_until_somebody_commits(
    database: Database, tmp_path: Path
) -> None:
    asked = 0

    def look(connection: Connection, sandbox_id: str) -> int | None:
        nonlocal asked
        asked += 1
        found = sandboxes.find(connection, sandbox_id)
        return None if found is None else found.cpu

    async def glance() -> int | None:
        return await database.glance(partial(look, sandbox_id="a"))

    assert (await glance(), await glance(), asked) == (None, None, 1)
    await database.write_soon(partial(add, sandbox_id="a"))
    assert (await glance(), await glance(), asked) == (2, 2, 2)
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None)) as other:
        other.execute("UPDATE sandboxes SET cpu = 4")
    assert (await glance(), await database.glance(partial(look, sandbox_id="b")), asked) == (4, None, 4)


async def test_a_cancelled_write_is_settled_before_its_caller_goes_on(database: Database) -> None:
    ended = False

    def slow(connection: Connection) -> None:
        nonlocal ended
        add(connection, "a")
        time.sleep(0.05)
        ended = True

    writing = asyncio.ensure_future(database.write(slow))
    await asyncio.sleep(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert ended


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "again.db"
    async with open_database(path) as database:
        await database.write(partial(add_with_workspace, sandbox_id="a"))
    async with open_database(path) as database:
        assert await exists(database, "a")


def add_with_workspace(connection: Connection, sandbox_id: str) -> None:
    connection.exec_driver_sql("INSERT INTO workspaces VALUES ('w', 0, 0, 0)")
    add(connection, sandbox_id)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


async def test_an_open_database_needs_no_further_descriptor(database: Database) -> None:
    """Else the first read of a server that has none left is refused as an unknown fault of the database."""
    with no_descriptor_left():
        for lane in (database.read, database.glance, database.write_soon, database.write):
            assert await lane(partial(sandboxes.find, sandbox_id="a")) is None


async def test_transactions_that_come_together_are_committed_together(tmp_path: Path) -> None:
    """One that fails takes nothing of the others with it, and each caller hears of its own."""
    async with open_database(tmp_path / "control.db") as database:
        commits: list[int] = []

        def failing(connection: Connection) -> None:
            add(connection, "never")
            raise Conflict("changed my mind")

        def counted(connection: Connection, sandbox_id: str) -> None:
            add(connection, sandbox_id)
            commits.append(id(connection.get_transaction()))

        await database.write(lambda connection: accounts.recount(connection, "w"))
        names = [str(number) for number in range(20)]
        async with asyncio.TaskGroup() as group:
            writes = [group.create_task(database.write(partial(counted, sandbox_id=name))) for name in names]
            failed = group.create_task(_refusal(database, failing))
        assert isinstance(failed.result(), Conflict)
        assert all(write.result() is None for write in writes)
        assert [await exists(database, name) for name in names] == [True] * 20
        assert not await exists(database, "never")
        assert len(set(commits)) < len(names)


async def _refusal(database: Database, transaction: Callable[[Connection], None]) -> BaseException | None:
    try:
        await database.write(transaction)
    except Conflict as error:
        return error
    return None


async def test_what_is_not_flushed_does_not_leave_the_thread_of_its_caller(database: Database) -> None:
    """Unless something else is being written: then it waits for that, in order."""
    threads: dict[str, int] = {}

    def noted(connection: Connection, name: str) -> None:
        threads[name] = threading.get_ident()
        add(connection, name)

    await database.write_soon(partial(noted, name="here"))
    flushed = asyncio.ensure_future(database.write(partial(noted, name="flushed")))
    await asyncio.sleep(0)
    await database.write_soon(partial(noted, name="behind"))
    assert list(threads) == ["here", "flushed", "behind"]
    assert threads["here"] == threading.get_ident()
    assert threads["flushed"] == threads["behind"] != threads["here"]
    await flushed
    assert [await exists(database, name) for name in threads] == [True] * 3


async def test_another_program_that_writes_does_not_stop_the_event_loop(
    database: Database, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.ensure_future(database.write_soon(partial(add, sandbox_id="a")))
        begun = time.monotonic()
        await asyncio.sleep(0.05)
        assert time.monotonic() - begun < 1.0  # it would wait for five seconds
        assert not writing.done()
        other.execute("COMMIT")
        await writing
    assert await exists(database, "a")
    await database.write_soon(partial(add, sandbox_id="b"))
    assert await exists(database, "b")


async def test_nothing_of_one_that_fails_here_is_kept(database: Database) -> None:
    def transaction(connection: Connection) -> None:
        add(connection, "a")
        raise Conflict("changed my mind")

    with pytest.raises(Conflict):
        await database.write_soon(transaction)
    assert not await exists(database, "a")
    await database.write_soon(partial(add, sandbox_id="a"))
