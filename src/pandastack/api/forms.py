"""Forms: fields and files out of a body, whichever of the two encodings it has."""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pandastack.endpoint import ClientGone
from pandastack.errors import InvalidRequest, TooLarge
from pandastack.model.build import check_context_name

T = TypeVar("T")

MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
MOST_FILES, MOST_FIELDS = 10_000, 64
SEVERAL_BYTES = 64 << 20
"""What the files of a form may have when there are several: most of it is in memory until all is read."""
FIELD_BYTES = 1 << 20
IN_MEMORY = 1 << 20
"""A larger file of a form is on the disk while the form is read."""
EXECUTABLE, PLAIN = 0o755, 0o644


class _Parts(MultiPartParser):
    """A form that is refused when it has several files and is large."""

    spool_max_size = IN_MEMORY
    taken = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """A piece of a field or a file has come."""
        self.taken += end - start
        if self._current_files > 1 and self.taken > SEVERAL_BYTES:
            raise TooLarge(
                f"Several files of a form may have {SEVERAL_BYTES} bytes: send a larger context as one "
                "tar, with context_format=tar."
            )
        super().on_part_data(data, start, end)


@asynccontextmanager
async def form_of(request: Request, limit: int) -> AsyncIterator[FormData]:
    """The form of a request of at most so many bytes; its files are gone at the end of the block. Errors:
    InvalidRequest, TooLarge, ClientGone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    stream = _bounded(request, limit)
    try:
        if kind == MULTIPART:
            parser: FormParser | MultiPartParser = _Parts(
                request.headers,
                stream,
                max_files=MOST_FILES,
                max_fields=MOST_FIELDS,
                max_part_size=FIELD_BYTES,
            )
        elif kind == URLENCODED:
            parser = FormParser(Headers(request.headers), stream)
        else:
            raise InvalidRequest(f"A form is sent as {MULTIPART} or {URLENCODED}; got {kind or 'nothing'}.")
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The form cannot be read: {error.message}") from error
    except ClientDisconnect as error:
        raise ClientGone from error
    try:
        yield form
    finally:
        await form.close()


def fields_of(form: FormData) -> dict[str, str]:
    """Its fields; of one that is there twice the last."""
    return {name: value for name, value in form.multi_items() if isinstance(value, str)}


def files_of(form: FormData) -> list[tuple[str, UploadFile]]:
    """Its files by the names of their fields."""
    return [(name, value) for name, value in form.multi_items() if not isinstance(value, str)]


def typed(fields: dict[str, str], kind: type[T], structured: Sequence[str]) -> T:
    """Fields as a value; those that are `structured` are JSON. Errors: InvalidRequest, naming the field."""
    values: dict[str, object] = dict(fields)
    for name in set(structured) & set(fields):
        try:
            values[name] = msgspec.json.decode(fields[name])
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"The field `{name}` is not JSON: {error}.") from error
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        name = where.strip("`").removeprefix("$").lstrip(".")
        subject = f"The form's field `{name}`" if name else "The form"
        raise InvalidRequest(f"{subject} does not fit: {problem[:1].lower()}{problem[1:]}.") from error


async def kept(file: UploadFile, path: Path) -> None:
    """Have what was uploaded be the file `path`."""
    with path.open("xb") as target:
        await asyncio.to_thread(shutil.copyfileobj, file.file, target, 1 << 20)


async def packed(files: Sequence[tuple[str, UploadFile]], path: Path) -> None:
    """Have files be a tar at `path`, under the names of their fields: the same bytes for the same files.
    Errors: InvalidRequest for a name that leads out of it, or that two have.
    """
    names = [check_context_name(name) for name, _ in files]
    if twice := next((name for name in names if names.count(name) > 1), None) if len(names) < 1000 else None:
        raise InvalidRequest(f"The context has two files {twice!r}.")
    await asyncio.to_thread(_pack, sorted(zip(names, (file for _, file in files), strict=True)), path)


def _pack(files: Sequence[tuple[str, UploadFile]], path: Path) -> None:
    with path.open("xb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
        for name, file in files:
            entry = tarfile.TarInfo(name)
            entry.size = file.size or 0
            with _rewound(file) as executable:
                entry.mode = EXECUTABLE if executable else PLAIN
                tar.addfile(entry, file.file)


@contextmanager
def _rewound(file: UploadFile) -> Iterator[bool]:
    """A form tells no permissions: what begins as a script or a program does may be run. Whether it does."""
    file.file.seek(0)
    begins = file.file.read(4)
    file.file.seek(0)
    yield begins.startswith((b"#!", b"\x7fELF"))


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    declared, size = request.headers.get("content-length", ""), 0
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"The form has {declared} bytes; at most {limit} are taken.")
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise TooLarge(f"The form has more than the {limit} bytes that are taken.")
        yield piece
