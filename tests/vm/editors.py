"""Those who work in a real machine: a person at a prompt, an agent's program, an editor."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from contextlib import suppress
from typing import Any

from pandastack import AsyncSandbox
from pandastack.client._lsp import Messages, framed
from tests.api.conftest import TOKEN
from tests.api.test_kills import PROGRAM

FILE = "file:///workspace/cell.py"
SOURCE = "import os\nvalues = [1]\nvalues.app\nmissing\n"
OPENED = {"uri": FILE, "languageId": "python", "version": 1, "text": SOURCE}
START: dict[str, Any] = {"processId": None, "rootUri": "file:///workspace", "capabilities": {}}


async def language_server(sandbox: AsyncSandbox) -> None:
    """What an agent asks: completions, and what is wrong with a file."""
    complaints: list[str] = []
    began = time.monotonic()
    async with sandbox.lsp("python", on_stderr=complaints.append) as server:
        messages = aiter(server)

        async def answer(number: int, method: str, params: object) -> Any:  # noqa: ANN401  # any JSON value
            nonlocal began
            began = time.monotonic()
            await server.send({"id": number, "method": method, "params": params})
            told = await anext(each async for each in messages if each.get("id") == number)
            print(method, round(time.monotonic() - began, 3))
            return told["result"]

        assert (await answer(1, "initialize", START))["capabilities"]["completionProvider"]
        await server.send({"method": "initialized", "params": {}})
        await server.send({"method": "textDocument/didOpen", "params": {"textDocument": OPENED}})
        place = {"textDocument": {"uri": FILE}, "position": {"line": 2, "character": 10}}
        found = await answer(2, "textDocument/completion", place)
        assert [item["insertText"] for item in found["items"]] == ["append"]
        changed = {"textDocument": {"uri": FILE, "version": 2}, "contentChanges": [{"text": SOURCE + "\n"}]}
        await server.send({"method": "textDocument/didChange", "params": changed})
        wrong = "textDocument/publishDiagnostics"
        told = await anext(each async for each in messages if each.get("method") == wrong)
        assert "undefined name 'missing'" in {each["message"] for each in told["params"]["diagnostics"]}
        assert await answer(3, "shutdown", None) is None
        await server.send({"method": "exit"})
        assert [each async for each in messages] == []
        assert server.exit_code == 0
        assert complaints == []


def editor(url: str, sandbox_id: str) -> None:
    """What an editor starts: the same over the standard streams of a program."""
    environment = {**os.environ, "PANDASTACK_API": url, "PANDASTACK_API_KEY": TOKEN}
    words: tuple[dict[str, Any], ...] = (
        {"id": 1, "method": "initialize", "params": START},
        {"id": 2, "method": "shutdown"},
        {"method": "exit"},
    )
    done = subprocess.run(
        [PROGRAM, "lsp", sandbox_id],
        input=b"".join(map(framed, words)),
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [each["id"] for each in Messages().add(done.stdout)] == [1, 2]


def typed_cells(url: str, sandbox_id: str) -> None:
    """At a terminal: cells of several lines, Ctrl-C in a cell and at a prompt, Ctrl-D."""
    child, terminal = pty.fork()
    if child == 0:
        environment = {**os.environ, "PANDASTACK_API": url, "PANDASTACK_API_KEY": TOKEN, "TERM": "dumb"}
        os.execve(PROGRAM, [str(PROGRAM), "repl", sandbox_id], environment)  # noqa: S606  # no shell
    said = b""

    def hear(words: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + 60
        while words not in said:
            assert time.monotonic() < deadline, said
            if select.select([terminal], [], [], 0.1)[0]:
                said += os.read(terminal, 65_536)
        said = said.partition(words)[2]

    def type_(text: bytes) -> None:
        os.write(terminal, text)

    hear(b"[1] ")
    type_(b"def twice(x):\n    return x + x\n\ntwice(x)\n")  # x is of the context that is there
    hear(b"\n40\r\n")
    hear(b"] ")  # what is typed earlier is no key of a prompt
    type_(b"import time; print('begun')\ntime.sleep(600)\n")
    hear(b"begun\r\n")
    time.sleep(2)
    type_(b"\x03")
    hear(b"KeyboardInterrupt")
    hear(b"] ")
    type_(b"half of a\x03")
    hear(b"] ")
    type_(b"x + 2\n")
    hear(b"\n22\r\n")
    hear(b"] ")
    type_(b"\x04")
    with suppress(OSError):  # the other end of a pseudo terminal closes with EIO
        while os.read(terminal, 65_536):
            pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
