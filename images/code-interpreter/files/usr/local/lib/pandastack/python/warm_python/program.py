"""How a copy of the warm interpreter becomes the program that somebody wants to run."""

from __future__ import annotations

import io
import os
import stat
import sys
import time
from enum import IntEnum
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from types import ModuleType

from warm_python.hidden import Hidden
from warm_python.surroundings import Cold, Surroundings


class Form(IntEnum):
    """As in request.h."""

    INPUT = 0
    FILE = 1
    COMMAND = 2


class Program:
    """What all programs start from."""

    def __init__(self, hidden: Hidden, surroundings: Surroundings) -> None:
        self._hidden = hidden
        self._surroundings = surroundings

    def modules(self) -> dict[str, ModuleType]:
        """All that is loaded ahead. It outlives every program: to tear it down would take long."""
        return sys.modules | self._hidden.modules()

    def folders(self) -> list[str]:
        """Where all that comes from."""
        return self._surroundings.folders()

    def adopt(
        self, form: int, rest: int, unbuffered: int, quiet: int, arguments: bytes, environment: bytes
    ) -> str | None:
        """Make this process the program, up to running it; or say why it would not be as Python runs it.

        Descriptors, folder and mask are the program's already. `rest` is the index of the program in its arguments;
        `quiet` says that no folder of `folders` has changed.
        """
        try:
            if not quiet:
                self._surroundings.check_files()
            self._adopt(Form(form), rest, arguments.split(b"\0")[:-1], environment.split(b"\0")[:-1])
        except Cold as why:
            return str(why)
        _open_standard(buffered=not unbuffered)
        time.tzset()
        return None

    def _adopt(self, form: Form, rest: int, arguments: list[bytes], environment: list[bytes]) -> None:
        words = [os.fsdecode(word) for word in arguments]
        what = words[rest] if rest < len(words) else ""
        folder = _folder_of(what) if form is Form.FILE else ""
        if form is Form.COMMAND:
            _check_text(arguments[rest])
        self._surroundings.check(_as_dictionary(environment), folder)
        _set_environment(environment)
        _set_arguments(form, words, rest)
        sys.path.insert(0, folder)
        _renew_main(_file_variables(form, what))


def _folder_of(file: str) -> str:
    """The folder that Python looks for the file's modules in."""
    path = os.path.realpath(file)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Cold(f"{file} is not simply a file")
        with open(path, "rb") as content:
            start = content.read(2)
    except OSError as error:
        raise Cold(str(error)) from error
    if file.endswith(".pyc") or start in (MAGIC_NUMBER[:2], b"PK"):
        raise Cold(f"{file} is no text")
    return os.path.dirname(path)


def _check_text(command: bytes) -> None:
    try:
        command.decode()
    except UnicodeDecodeError as error:
        raise Cold("the command is no text") from error


def _as_dictionary(variables: list[bytes]) -> dict[str, str]:
    pairs = (os.fsdecode(one).partition("=") for one in variables)
    return {name: value for name, _, value in pairs}


def _set_environment(variables: list[bytes]) -> None:
    """As `posix` reads it: the first of one name counts, and what has no value is none."""
    known = os.environ._data
    known.clear()
    for one in variables:
        name, equals, value = one.partition(b"=")
        if equals:
            known.setdefault(name, value)


def _set_arguments(form: Form, words: list[str], rest: int) -> None:
    sys.orig_argv = words
    sys.argv = words[rest:] or [""]
    if form is Form.COMMAND:
        sys.argv[0] = "-c"
    sys.executable = sys._base_executable = words[0]


def _renew_main(variables: dict[str, object]) -> None:
    """An object of the program's time: those that are older are never found to be garbage, nor what they hold."""
    main = ModuleType("__main__")
    vars(main).update(vars(sys.modules["__main__"]), __annotations__={})
    vars(main).update(variables)
    sys.modules["__main__"] = main


def _file_variables(form: Form, what: str) -> dict[str, object]:
    """What a main module is told of where it comes from."""
    if form is Form.COMMAND:
        return {}
    if form is Form.INPUT:
        return {"__file__": "<stdin>", "__cached__": None}
    path = what if what.startswith("/") else f"{os.getcwd()}/{what}"
    return {"__file__": path, "__cached__": None, "__loader__": SourceFileLoader("__main__", path)}


def _open_standard(*, buffered: bool) -> None:
    """Standard streams as Python opens them."""
    sys.stdin = sys.__stdin__ = _stream(0, "r", sys.stdin, buffered=buffered)
    sys.stdout = sys.__stdout__ = _stream(1, "w", sys.stdout, buffered=buffered)
    sys.stderr = sys.__stderr__ = _stream(2, "w", sys.stderr, buffered=buffered)


def _stream(fd: int, mode: str, like: io.TextIOWrapper, *, buffered: bool) -> io.TextIOWrapper:
    size = -1 if buffered or mode == "r" else 0
    raw = binary = open(fd, f"{mode}b", size, closefd=False)  # noqa: SIM115 - it is the program's to the end
    if not isinstance(binary, io.FileIO):
        raw = binary.raw
    raw.name = like.name
    text = io.TextIOWrapper(
        binary,
        like.encoding,
        like.errors,
        newline="\n",
        line_buffering=buffered and (raw.isatty() or fd == 2),
        write_through=not buffered,
    )
    text.mode = mode
    return text
