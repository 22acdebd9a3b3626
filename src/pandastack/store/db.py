"""The database: whole transactions, one at a time.

A transaction is a plain function over a connection, so nothing but the database can be waited for inside it.
What waits for the disk runs on a thread, what does not runs where it is asked for. Measured for the two
transactions of a create (six statements): 4.9 ms with a hop to a thread a statement, 2.4 ms with a hop a
transaction, 1.2 ms and less with none; flushing both to the disk took 0.7 ms more, which neither needs: the
machine that they tell of does not outlive the power.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from pandastack.carrying import carried_through
from pandastack.errors import InternalError, NoSpace, PandastackError
from pandastack.store import migrations

T = TypeVar("T")

Connection = sa.Connection
"""What a transaction is given; the layers above know it by this name alone."""

BUSY_MS = 5000
"""How long SQLite waits for another process (a command-line tool) that writes."""


SEEN_MOST = 1024
"""So many answers are remembered while nobody writes."""


class _Locked(Exception):
    """Somebody else writes, and nothing was done."""


class _Asked(Struct, eq=False):
    """A transaction that waits for its turn, and who waits for it."""

    transaction: Callable[[sa.Connection], Any]
    answer: asyncio.Future[Any]


class Lane:
    """One connection, and the thread that alone may use it.

    Transactions that come while the thread is busy are committed together: each is whole or not at all by a
    savepoint of its own, and one flush serves all. Sixteen sandboxes that start at once cost two or three.
    """

    def __init__(self, engine: sa.Engine, thread: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._thread = thread
        self._connection: sa.Connection | None = None
        self._asked: list[_Asked] = []
        self._busy = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits on its thread."""
        return not self._busy

    async def run(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run it, commit, return its value; on any exception nothing of it is kept.

        When the caller is cancelled the transaction is settled, committed or not, before the cancellation
        goes on. Errors: NoSpace, InternalError, and what `transaction` raises of ours.
        """
        asked = _Asked(transaction, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        if not self._busy:
            self._begin_round()
        answer: T = await carried_through(asked.answer)
        return answer

    def run_here(self, transaction: Callable[[sa.Connection], T]) -> T:
        """As `run`, on the caller's own thread, which stands still meanwhile."""
        answer = self._settled([transaction])[0]
        if isinstance(answer, BaseException):
            raise answer
        return cast(T, answer)

    def version(self) -> int:
        """Another number than before when somebody else, of any process, has committed since; 5 µs."""
        if self._connection is None:
            return 0
        driver = cast(sqlite3.Connection, self._connection.connection.driver_connection)
        try:
            number: int = driver.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise InternalError(f"The database refused: {error}.") from error
        return number

    def _begin_round(self) -> None:
        """Everything that was asked for until now, in its order."""
        self._busy = True
        asked, self._asked = self._asked, []
        transactions = [each.transaction for each in asked]
        settled = asyncio.get_running_loop().run_in_executor(self._thread, self._settled, transactions)
        settled.add_done_callback(partial(self._end_round, asked))

    def _end_round(self, asked: list[_Asked], settled: asyncio.Future[list[Any]]) -> None:
        for each, answer in zip(asked, settled.result(), strict=True):
            if isinstance(answer, BaseException):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)
        self._busy = False
        if self._asked:
            self._begin_round()

    def _settled(self, transactions: Sequence[Callable[[sa.Connection], Any]]) -> list[Any]:
        """What each of them returned or raised. What one raised undoes that one, a failed commit all."""
        alone = len(transactions) == 1
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                if alone:
                    return [transactions[0](self._connection)]
                return [_run_apart(self._connection, transaction) for transaction in transactions]
        except BaseException as error:  # who asked is told
            return [_told(error)] * len(transactions)

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


class Glances:
    """A row or two by their key, read on the caller's own thread, and once until somebody commits."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._seen: dict[Hashable, Any] = {}
        self._version = 0

    async def glance(self, query: partial[T]) -> T:
        """What the query gives now, which others are given too and nobody may change.

        The query is known by its function and its arguments, which are hashable. Errors: as `Lane.run`.
        """
        version = self._lane.version()
        if version != self._version or len(self._seen) >= SEEN_MOST:
            self._seen, self._version = {}, version
        key = (query.func, query.args, *query.keywords.items())
        if key not in self._seen:
            self._seen[key] = self._lane.run_here(query)
        return cast(T, self._seen[key])


class Database:
    """Transactions by kind. Writes of both kinds take turns; reads go beside them on the last committed
    state.

    `write` is on the disk when it returns. `write_soon` is kept in order but may be lost with the power until
    the next `write`: for what nobody was told of yet. While nobody else writes it runs on the event loop's
    own thread, as `glance` does, which is for a row or two by their key: half a millisecond and a tenth of
    the loop's own time, where a thread hop costs more (and ten times that on a busy machine). A `glance` is
    next to nothing while no transaction was committed since it was last asked the same. `write_aside` is as
    `write_soon`, always on the thread: for what may be large and nobody waits for.
    """

    def __init__(self, *, write: Lane, write_soon: Lane, write_here: Lane, read: Lane, glance: Lane) -> None:
        self._writing = (write, write_soon)
        self._soon = write_soon
        self._here = write_here
        self.write = write.run
        self.write_aside = write_soon.run
        self.read = read.run
        self.glance = Glances(glance).glance

    async def write_soon(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run it, commit, return its value; on any exception nothing of it is kept. Errors: as `write`."""
        if all(lane.is_idle for lane in self._writing):
            with suppress(_Locked):
                return self._here.run_here(transaction)
        return await self._soon.run(transaction)


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """The database in the file `path`, brought to the newest schema; closed at the end of the block."""
    async with AsyncExitStack() as stack:
        writing = stack.enter_context(ThreadPoolExecutor(1, "database-write"))
        reading = stack.enter_context(ThreadPoolExecutor(1, "database-read"))
        write = Lane(_engine(path, "BEGIN IMMEDIATE", "FULL"), writing)
        write_soon = Lane(_engine(path, "BEGIN IMMEDIATE", "NORMAL"), writing)
        write_here = Lane(_engine(path, "BEGIN IMMEDIATE", "NORMAL", here=True), writing)
        read = Lane(_engine(path, "BEGIN", "NORMAL"), reading)
        glance = Lane(_engine(path, "BEGIN", "NORMAL"), reading)
        for lane in (write, write_soon, write_here, read, glance):
            stack.push_async_callback(lane.aclose)
            await lane.open()
        await write.run(migrations.upgrade)
        yield Database(write=write, write_soon=write_soon, write_here=write_here, read=read, glance=glance)


def _run_apart(connection: sa.Connection, transaction: Callable[[sa.Connection], Any]) -> Any:  # noqa: ANN401  # what a transaction returns
    """What it returned or raised, and then nothing of it is left. A full disk is for all to hear."""
    try:
        with connection.begin_nested():
            return transaction(connection)
    except OperationalError:
        raise
    except BaseException as error:  # who asked is told
        return _told(error)


def _told(error: BaseException) -> BaseException:
    """The same for our callers: what the database says becomes an error of ours."""
    if not isinstance(error, SQLAlchemyError):
        return error
    words = str(error.orig) if isinstance(error, OperationalError) else type(error).__name__
    told: PandastackError = InternalError(f"The database refused: {words}.")
    if "full" in words or "full" in str(error.__context__):  # that ends the transaction, savepoints and all
        told = NoSpace("The disk that holds the server's database is full.")
    told.__cause__ = error
    return told


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte of the extended code


def _engine(path: Path, begin: str, synchronous: str, *, here: bool = False) -> sa.Engine:
    """What runs `here`, on the event loop's thread, waits for nobody and leaves checkpoints to others."""
    waits = ("busy_timeout=0", "wal_autocheckpoint=0") if here else (f"busy_timeout={BUSY_MS}",)
    engine = sa.create_engine(
        f"sqlite:///{path}", poolclass=NullPool, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's own begins too late
        for pragma in (
            *waits,
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            "temp_store=MEMORY",  # no file that is opened in the middle of a statement
            "journal_size_limit=16777216",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        try:
            connection.exec_driver_sql(begin)
        except OperationalError as error:
            if here and isinstance(error.orig, sqlite3.OperationalError) and _is_busy(error.orig):
                raise _Locked from error
            raise

    return engine
