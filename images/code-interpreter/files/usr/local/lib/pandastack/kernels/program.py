"""A kernel that has another language's interpreter run on, and gives it one cell at a time.

The interpreter is a process with pipes: what it writes to the first two is output, what it writes to the third tells
how a cell ended. A cell that ends has written all its own output by then.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import logging
import os
import select
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

PIECE = 1 << 16
STOP_SECONDS = 3.0
"""How long an interrupted cell may take to stop before its interpreter is ended."""
AT_ONCE_SECONDS = 0.02


LIBRARY = ctypes.CDLL(None)
SET_DEATH_SIGNAL = 1


def _die_with_parent() -> None:
    LIBRARY.prctl(SET_DEATH_SIGNAL, signal.SIGKILL)


class Ended(Exception):
    """The interpreter is no more."""


class Interpreter:
    """A running interpreter and its pipes."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._tells, told = os.pipe()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment, "PANDASTACK_TELL": str(told)},
            pass_fds=(told,),
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        os.close(told)
        self._names = {self.process.stdout.fileno(): "stdout", self.process.stderr.fileno(): "stderr"}
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {fd: make("replace") for fd in self._names}
        self._said = b""

    def write(self, data: bytes) -> None:
        """Give it something to read."""
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # its end is found where it is read

    def read(self, seconds: float | None) -> tuple[list[tuple[str, str]], str | None]:
        """What it has written, and the line by which it tells, as soon as there is any of either.

        Ended when it has ended; KeyboardInterrupt as ever.
        """
        ready, _, _ = select.select([*self._names, self._tells], [], [], seconds)
        output = [
            (name, text) for fd, name in self._names.items() if fd in ready and (text := self._text(fd))
        ]
        if self._tells not in ready:
            for fd in [fd for fd in ready if fd in self._names and self._decoders[fd] is None]:
                del self._names[fd]
            return output, None
        piece = os.read(self._tells, PIECE)
        if not piece:
            raise Ended
        line, found, self._said = (self._said + piece).partition(b"\n")
        if found:
            return output, line.decode("utf-8", "replace")
        self._said = line
        return output, None

    def _text(self, fd: int) -> str:
        piece = os.read(fd, PIECE)
        if not piece:
            text = self._decoders[fd].decode(b"", final=True)
            self._decoders[fd] = None
            return text
        return self._decoders[fd].decode(piece)

    def interrupt(self) -> None:
        """Have it and all that it runs stop what they do."""
        self._signal(signal.SIGINT)

    def end(self) -> int:
        """End it with all that it runs; how it ended."""
        self._signal(signal.SIGKILL)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        os.close(self._tells)
        return code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class ProgramKernel(Kernel):
    """A language whose interpreter is a program."""

    implementation = "pandastack"
    implementation_version = "1"
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    prelude = b""
    """What a new interpreter is given first, to be answered with a line; what it has said until then is nobody's."""
    _running: Interpreter | None = None

    @abstractmethod
    def order(self, code: str) -> bytes:
        """What the interpreter is given for a cell."""

    @abstractmethod
    def outcome(self, line: str) -> dict[str, Any]:
        """What it told at the end of one, as the content of a reply; `result` is a MIME bundle to show."""

    def clean(self, text: str) -> str:
        """What is shown of its output."""
        return text

    def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        **_: Any,  # noqa: ANN401 - what later versions add
    ) -> dict[str, Any]:
        """Run a cell."""
        try:
            reply = self._run(code, silent)
        except Ended:
            code_of_end, self._running = self._running.end(), None
            reply = _error(
                "Ended", f"the interpreter ended with {code_of_end}; the next cell finds a new one"
            )
        if result := reply.pop("result", None):
            content = {"execution_count": self.execution_count, "data": result, "metadata": {}}
            if not silent:
                self.send_response(self.iopub_socket, "execute_result", content)
        if reply["status"] == "error" and not silent:
            shown = {name: reply[name] for name in ("ename", "evalue", "traceback")}
            self.send_response(self.iopub_socket, "error", shown)
        return {"execution_count": self.execution_count, "payload": [], "user_expressions": {}, **reply}

    def _run(self, code: str, silent: bool) -> dict[str, Any]:
        if self._running is None:
            self._running = Interpreter(self.command, self.environment)
            self._running.write(self.prelude)
            while self.prelude and self._running.read(None)[1] is None:
                continue
            self._running.read(0)
        interpreter = self._running
        interpreter.write(self.order(code))
        deadline, line = None, None
        while line is None:
            try:
                output, line = interpreter.read(AT_ONCE_SECONDS if deadline else None)
            except KeyboardInterrupt:
                interpreter.interrupt()
                deadline = time.monotonic() + STOP_SECONDS
                continue
            self._show(output, silent)
            if deadline and time.monotonic() > deadline:
                raise Ended
        while output := interpreter.read(0)[0]:
            self._show(output, silent)
        if deadline:
            return _error("KeyboardInterrupt", "the cell was interrupted")
        return self.outcome(line)

    def _show(self, output: list[tuple[str, str]], silent: bool) -> None:
        for name, said in output:
            if (text := self.clean(said)) and not silent:
                self.send_response(self.iopub_socket, "stream", {"name": name, "text": text})

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """Take the interpreter along."""
        if self._running is not None:
            self._running.end()
            self._running = None
        return {"status": "ok", "restart": restart}


def _error(name: str, value: str, traceback: list[str] | None = None) -> dict[str, Any]:
    return {"status": "error", "ename": name, "evalue": value, "traceback": traceback or [f"{name}: {value}"]}


def serve(kernel: type[ProgramKernel], connection_file: str) -> None:
    """Be such a kernel until somebody ends it."""
    app = IPKernelApp.instance(
        connection_file=connection_file, kernel_class=kernel, log_level=logging.CRITICAL
    )
    app.initialize([])
    app.start()
