"""Code contexts: cells that build on each other."""

from __future__ import annotations

import base64
import os

from pandastack import BadRequestError, Sandbox, SandboxTimeout

from .registry import must_fail, program

HAS_KERNELS = os.environ.get("WIRE_DRIVER") != "process"
"""The process driver's sandboxes have what the server's machine has, and that is no kernel of ours."""


def made() -> Sandbox:
    return Sandbox.create(template="code-interpreter", ttl_seconds=300)


@program
def a_context_remembers_and_its_results_are_rich(directory: str) -> None:
    with made() as sandbox:
        if not HAS_KERNELS:
            must_fail(BadRequestError, lambda: sandbox.create_code_context("cobol"))
            return
        with sandbox.create_code_context() as context:
            assert context.run_code("x = 41").results == []
            done = context.run_code("print('said')\nx + 1")
            assert (done.text, done.stdout, done.error, done.exit_code) == ("42", "said\n", None, 0)
            assert done.logs == {"stdout": "said\n", "stderr": ""}
            done = context.run_code("import pandas as pd; pd.DataFrame({'a': [1, 2]})")
            assert "<table" in (done.results[0].html or "")
            done = context.run_code("import matplotlib.pyplot as plt; plt.plot([1, 2, 3]); plt.show()")
            assert base64.b64decode(done.png or "").startswith(b"\x89PNG")
            assert done.results[-1].chart == done.png
            done = context.run_code("from IPython.display import display, JSON; display(JSON({'a': [1]}))")
            assert done.results[0].json == {"a": [1]}
            done = context.run_code("1 / 0")
            assert "ZeroDivisionError" in (done.error or "")
            assert done.exit_code == 1
            must_fail(
                SandboxTimeout, lambda: context.run_code("import time; time.sleep(60)", timeout_seconds=1)
            )
            assert context.run_code("x").text == "41"


@program
def contexts_of_several_languages_are_kept_apart(directory: str) -> None:
    if not HAS_KERNELS:
        return
    with made() as sandbox:
        first, second = sandbox.create_code_context("py"), sandbox.create_code_context("python3")
        first.run_code("x = 1")
        assert "NameError" in (second.run_code("x").error or "")
        shell = sandbox.create_code_context("bash")
        shell.run_code("cd /tmp; here=kept")
        assert shell.run_code("echo $PWD $here").stdout == "/tmp kept\n"
        must_fail(BadRequestError, lambda: sandbox.create_code_context("cobol"))
        for context in (first, second, shell):
            context.close()
            context.close()
