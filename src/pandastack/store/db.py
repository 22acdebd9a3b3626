"""The database: whole transactions, run one at a time on a thread of their own.

A transaction is a plain function over a connection, so nothing but the database can be waited for inside it,
and the event loop pays one thread hop for all of its statements. Measured for the two transactions of a
create (six statements): 2.4 ms this way, 4.9 ms with a hop a statement; of them 0.7 ms were for flushing both
to the disk, which neither needs: the machine that they tell of does not outlive the power.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pandastack.errors import InternalError, NoSpace
from pandastack.store import migrations

T = TypeVar("T")

Connection = sa.Connection
"""What a transaction is given; the layers above know it by this name alone."""

BUSY_MS = 5000
"""How long SQLite waits for another process (a command-line tool) that writes."""


class Lane:
    """One connection, and the thread that alone may use it."""

    def __init__(self, engine: sa.Engine, thread: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._thread = thread
        self._connection: sa.Connection | None = None

    async def run(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run it, commit, return its value; on any exception nothing of it is kept.

        When the caller is cancelled the transaction is settled, committed or not, before the cancellation
        goes on. Errors: NoSpace, InternalError, and what `transaction` raises of ours.
        """
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, transaction)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    async def run_here(self, transaction: Callable[[sa.Connection], T]) -> T:
        """As `run`, on the caller's own thread, which stands still meanwhile."""
        return self._transact(transaction)

    def _transact(self, transaction: Callable[[sa.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                return transaction(self._connection)
        except OperationalError as error:
            if "full" in str(error.orig):
                raise NoSpace("The disk that holds the server's database is full.") from error
            raise InternalError(f"The database refused: {error.orig}.") from error
        except SQLAlchemyError as error:
            raise InternalError(f"The database refused: {type(error).__name__}.") from error

    async def open(self) -> None:
        """Take every descriptor that the lane will ever need; what is opened later could find none left."""
        await self.run(lambda connection: connection.exec_driver_sql("SELECT 1 FROM sqlite_schema").close())

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()


class Database:
    """Transactions by kind. Writes of both kinds take turns; reads go beside them on the last committed
    state.

    `write` is on the disk when it returns. `write_soon` is kept in order but may be lost with the power until
    the next `write`: for what nobody was told of yet. `glance` is for a row or two by their key: 0.1 ms of
    the event loop's own time instead of a thread hop that costs more (and ten times that on a busy machine).
    """

    def __init__(self, write: Lane, write_soon: Lane, read: Lane, glance: Lane) -> None:
        self.write = write.run
        self.write_soon = write_soon.run
        self.read = read.run
        self.glance = glance.run_here


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """The database in the file `path`, brought to the newest schema; closed at the end of the block."""
    async with AsyncExitStack() as stack:
        writing = stack.enter_context(ThreadPoolExecutor(1, "database-write"))
        reading = stack.enter_context(ThreadPoolExecutor(1, "database-read"))
        write = Lane(_engine(path, "BEGIN IMMEDIATE", "FULL"), writing)
        write_soon = Lane(_engine(path, "BEGIN IMMEDIATE", "NORMAL"), writing)
        read = Lane(_engine(path, "BEGIN", "NORMAL"), reading)
        glance = Lane(_engine(path, "BEGIN", "NORMAL"), reading)
        for lane in (write, write_soon, read, glance):
            stack.push_async_callback(lane.aclose)
            await lane.open()
        await write.run(migrations.upgrade)
        yield Database(write, write_soon, read, glance)


def _engine(path: Path, begin: str, synchronous: str) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}", poolclass=NullPool, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's own begins too late
        for pragma in (
            f"busy_timeout={BUSY_MS}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            "temp_store=MEMORY",  # no file that is opened in the middle of a statement
            "journal_size_limit=16777216",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
