"""Run before the snapshot is taken: a first session with the language server, as editors begin it."""

import json
import subprocess

ROUNDS = 2
FILE = "file:///workspace/warm.py"
SOURCE = "import os\nimport numpy as np\nvalues = [1]\nvalues.app\nos.pat\nnp.arr\nmissing\n"
START = {"processId": None, "rootUri": "file:///workspace", "capabilities": {}}
OPENED = {"uri": FILE, "languageId": "python", "version": 1, "text": SOURCE}


def send(server: subprocess.Popen[bytes], **message: object) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    server.stdin.flush()


def heard(server: subprocess.Popen[bytes], name: str, value: object) -> None:
    """Read until a message has this."""
    while True:
        length = 0
        while (line := server.stdout.readline()).strip():
            key, _, text = line.partition(b":")
            length = int(text) if key.lower() == b"content-length" else length
        if not length:
            raise EOFError("the language server has ended")
        if json.loads(server.stdout.read(length)).get(name) == value:
            return


def session() -> None:
    """Begin, complete names, be told what is wrong, end."""
    with subprocess.Popen(["pylsp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        send(server, id=1, method="initialize", params=START)
        heard(server, "id", 1)
        send(server, method="initialized", params={})
        send(server, method="textDocument/didOpen", params={"textDocument": OPENED})
        for line, text in enumerate(SOURCE.splitlines()):
            if "." in text:
                place = {"line": line, "character": len(text)}
                for verb in ("completion", "hover"):
                    params = {"textDocument": {"uri": FILE}, "position": place}
                    send(server, id=2, method=f"textDocument/{verb}", params=params)
                    heard(server, "id", 2)
        changed = {"uri": FILE, "version": 2}
        text = {"textDocument": changed, "contentChanges": [{"text": SOURCE + "\n"}]}
        send(server, method="textDocument/didChange", params=text)
        heard(server, "method", "textDocument/publishDiagnostics")
        send(server, id=3, method="shutdown", params=None)
        heard(server, "id", 3)
        send(server, method="exit")


for _ in range(ROUNDS):
    session()
