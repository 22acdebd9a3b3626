"""What versions of templates were built of: contexts, root file systems, and lists of what came of them, as
files of the server's disk. Each is named by its SHA-256 and is there once, for as long as a row names it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from pandastack.errors import TemplateNotVerifiable
from pandastack.model.build import BuildWish, Inputs
from pandastack.store import inputs
from pandastack.store.db import Database

MOST_BYTES = 4 << 30
"""What those of a workspace may take in all. A version beyond it is built, and cannot be verified."""
DRAFT = "."
"""How names of files begin that are being written."""


class Drafts(Struct, frozen=True):
    """The files of a build on their way: `archive` is what was uploaded, `listing` what came of it."""

    archive: Path | None
    listing: Path


class Verifiable(Struct, frozen=True):
    """A version's inputs, with files of one's own."""

    inputs: Inputs
    files: Drafts


class InputFiles:
    """All of one server, below one directory."""

    def __init__(self, folder: Path, database: Database, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._database = database
        self._most_bytes = most_bytes
        self._lock = asyncio.Lock()
        """Between a file that is there and the row that names it nothing is swept."""

    @contextmanager
    def drafts(self, build_id: str, archive: Path | None) -> Iterator[Drafts]:
        """A place for the listing of a build, for the length of the block."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        listing = self._folder / f"{DRAFT}{build_id}"
        try:
            yield Drafts(archive, listing)
        finally:
            listing.unlink(missing_ok=True)

    @asynccontextmanager
    async def kept(
        self, workspace: str, wish: BuildWish, bases: dict[str, str], drafts: Drafts
    ) -> AsyncIterator[Inputs | None]:
        """The inputs of a version, their files kept; in the block its row is written. None when the workspace
        has too many of them already.
        """
        archive, archive_bytes = await asyncio.to_thread(_measured, drafts.archive)
        listing, listing_bytes = await asyncio.to_thread(_measured, drafts.listing)
        made = Inputs(
            wish=wish,
            bases=bases,
            archive=archive,
            archive_bytes=archive_bytes,
            listing=listing or "",
            listing_bytes=listing_bytes,
        )
        async with self._lock:
            there = await self._database.read(partial(inputs.files, workspace=workspace))
            new = {archive: archive_bytes, listing: listing_bytes}
            if sum((there | new).values()) > self._most_bytes:
                yield None
                return
            for digest, draft in ((archive, drafts.archive), (listing, drafts.listing)):
                if digest is not None and draft is not None:
                    await asyncio.to_thread(_link, draft, self._folder / digest)
            yield made

    async def find(self, workspace: str, name: str, version: int) -> Inputs | None:
        """Those of a version, if they were kept."""
        query = partial(inputs.find, workspace=workspace, name=name, version=version)
        return await self._database.read(query)

    def taken(self, found: Inputs, own: Drafts) -> Verifiable:
        """Those of a version, its files also by names of one's own, so that they stay whatever becomes of
        it. TemplateNotVerifiable when they are gone.
        """
        wanted = [(found.listing, own.listing)]
        if found.archive is not None and own.archive is not None:
            wanted.append((found.archive, own.archive))
        try:
            for digest, path in wanted:
                os.link(self._folder / digest, path)
        except FileNotFoundError as error:
            for _, path in wanted:
                path.unlink(missing_ok=True)
            raise TemplateNotVerifiable(
                "What the version was built of is not on the server's disk any more."
            ) from error
        return Verifiable(found, own if found.archive is not None else Drafts(None, own.listing))

    async def settle(self) -> None:
        """Remove the files that no version needs any more."""
        async with self._lock:
            names = await asyncio.to_thread(_names, self._folder)
            needed = await self._database.read(inputs.files)
            for name in names:
                if name not in needed:
                    (self._folder / name).unlink(missing_ok=True)

    def open(self) -> None:
        """Before anything is built: what an earlier server was writing goes."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for draft in self._folder.glob(f"{DRAFT}*"):
            draft.unlink()


async def check_whole(taken: Verifiable) -> None:
    """TemplateNotVerifiable when a file of these is not what it was."""
    for path, digest in (
        (taken.files.archive, taken.inputs.archive),
        (taken.files.listing, taken.inputs.listing),
    ):
        if (await asyncio.to_thread(_measured, path))[0] != digest:
            raise TemplateNotVerifiable("What the version was built of is damaged on the server's disk.")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*") if not path.name.startswith(DRAFT)]


def _measured(path: Path | None) -> tuple[str | None, int]:
    """The SHA-256 and the bytes of a file."""
    if path is None:
        return None, 0
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _link(draft: Path, kept: Path) -> None:
    """Have the file by its own name too, flushed."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(draft, kept)
    except FileExistsError:
        return
    folder = os.open(kept.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
