"""The bash kernel: one shell that runs on. A cell that ends with another status than 0 is an error that says which."""

from __future__ import annotations

import re
import shlex
import sys
from types import MappingProxyType
from typing import Any, ClassVar

from program import ProgramKernel, serve

TERMINAL = re.compile(r"^bash: \[.*\] tcsetattr: Inappropriate ioctl for device\n", re.MULTILINE)


class Bash(ProgramKernel):
    """An interactive shell without a terminal: an interrupt stops what it runs, not the shell."""

    language = "bash"
    language_version = "5"
    banner = "bash"
    language_info: ClassVar[dict[str, str]] = {
        "name": "bash",
        "mimetype": "text/x-sh",
        "file_extension": ".sh",
    }
    command = ("/bin/bash", "--noprofile", "--norc", "--noediting", "-i")
    environment = MappingProxyType({"PS1": "", "PS2": "", "HISTFILE": "", "TERM": "dumb"})

    prelude = b"echo >&$PANDASTACK_TELL\n"

    def order(self, code: str) -> bytes:
        """The cell as one word, whatever is in it, and a line behind it that tells its status."""
        cell = f"eval {shlex.quote(code)} </dev/null\necho $? >&$PANDASTACK_TELL\n"
        return cell.encode("utf-8", "surrogateescape")

    def clean(self, text: str) -> str:
        """Without what an interactive shell says of the terminal that it has not, when a signal ends a program."""
        return TERMINAL.sub("", text)

    def outcome(self, line: str) -> dict[str, Any]:
        status = int(line)
        if status == 0:
            return {"status": "ok"}
        words = f"the last command ended with {status}"
        return {
            "status": "error", "ename": "ExitStatus", "evalue": str(status), "traceback": [words], "exit_code": status,
        }  # fmt: skip


if __name__ == "__main__":
    serve(Bash, sys.argv[1])
