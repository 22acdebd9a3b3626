"""Code contexts of real machines: the kernels of the template code-interpreter, through the API."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pandastack import AsyncClient, Client, Result, SandboxTimeout
from pandastack.api.server import serving
from pandastack.jupyter.places import ROOT
from pandastack.model.code import CHART, DATA
from pandastack.services.cells import TEXT_MOST
from pandastack.testing.fixtures import LeakCheck
from tests.api.conftest import TOKEN, World
from tests.api.test_kills import PROGRAM
from tests.vm.editors import editor, language_server, typed_cells
from tests.vm.test_histories import real_host

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(900)]

PNG = "iVBORw0KGgo"
"""How base64 of a PNG begins."""
FIRST_SECONDS = 1.5
PLOT_SECONDS = 6.0
WARM_SECONDS = 0.1
"""What is promised of emulated machines."""
BUSY = 4
"""So many times as long it may take beside whatever else runs on the machine of the tests."""


class Box:
    """A sandbox and one context of it."""

    def __init__(self, world: World, sandbox_id: str, context_id: str) -> None:
        self.world = world
        self.id = sandbox_id
        self.root = f"/v1/sandboxes/{sandbox_id}"
        self.context = f"{self.root}/repl/sessions/{context_id}"

    async def cell(self, code: str, status: int = 200, **more: int) -> dict[str, Any]:
        """The answer to a cell."""
        answer = await self.world.http.post(f"{self.context}/run", json={"code": code, **more})
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def value(self, code: str) -> str:
        """What an expression is, as text."""
        told = await self.cell(code)
        assert told["error"] is None, told["error"]
        return str(told["results"][told["main"]]["text/plain"])

    async def post(self, path: str, status: int = 200, **body: object) -> dict[str, Any]:
        answer = await self.world.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json() if answer.content else {})


async def box_of(world: World, language: str = "python", **create: object) -> Box:
    made = await world.create(template="code-interpreter", **create)
    return await context_of(world, made["id"], language)


async def context_of(world: World, sandbox_id: str, language: str = "python") -> Box:
    path = f"/v1/sandboxes/{sandbox_id}/repl/sessions"
    answer = await world.http.post(path, json={"language": language})
    assert answer.status_code == 201, answer.text
    return Box(world, sandbox_id, answer.json()["id"])


@pytest.fixture
async def world(leak_check: LeakCheck, tmp_path: Path, images: None) -> AsyncIterator[World]:
    leak_check.expect_empty(tmp_path / "host" / "v")
    world = World(tmp_path, real_host)
    await world.start(on_exit="destroy")
    try:
        yield world
    finally:
        await world.stop()


async def test_a_first_cell_a_plot_and_a_warm_cell_take_no_longer_than_promised(world: World) -> None:
    made = await world.create(template="code-interpreter")
    began = time.monotonic()
    box = await context_of(world, made["id"])
    assert await box.value("1 + 1") == "2"
    first = time.monotonic() - began
    began = time.monotonic()
    told = await box.cell(
        "import pandas as pd, matplotlib.pyplot as plt\n"
        "frame = pd.DataFrame({'x': [1, 2, 3], 'y': [2, 4, 8]})\nframe.plot(x='x', y='y')\nplt.show()\nframe"
    )
    plot = time.monotonic() - began
    warm = []
    for number in range(10):
        began = time.monotonic()
        assert await box.value(f"{number} + 1") == str(number + 1)
        warm.append(time.monotonic() - began)
    print(f"first {first:.3f} plot {plot:.3f} warm {sorted(warm)[5]:.4f} {min(warm):.4f}")
    assert [sorted(result) for result in told["results"]] == [
        [CHART, "image/png", "text/plain"],
        [DATA, "text/html", "text/plain"],
    ]
    assert 0 < told["kernel_ms"] < told["duration_ms"] + 1
    assert first < FIRST_SECONDS * BUSY
    assert plot < PLOT_SECONDS * BUSY
    assert min(warm) < WARM_SECONDS * BUSY


async def test_what_a_cell_leaves_the_next_finds_and_results_have_every_form(world: World) -> None:
    box = await box_of(world)
    told = await box.cell("x = 41\nprint('out')\nimport sys\nprint('err', file=sys.stderr)\nx + 1")
    assert (told["stdout"], told["stderr"], told["exit"], told["error"]) == ("out\n", "err\n", 0, None)
    assert told["results"] == [{"text/plain": "42"}]
    assert told["main"] == 0
    assert told["execution_count"] == 1
    assert (await box.cell("x += 1; None"))["results"] == []
    assert await box.value("x") == "42"
    told = await box.cell(
        "from IPython.display import display, HTML, Markdown, Latex, JSON, SVG, Image\n"
        "for one in (HTML('<b>b</b>'), Markdown('*m*'), Latex('$l$'), JSON({'a': [1]}), SVG('<svg/>')):\n"
        "    display(one)\n"
        "import PIL.Image, io\nhold = io.BytesIO()\nPIL.Image.new('RGB', (2, 2)).save(hold, 'JPEG')\n"
        "display(Image(hold.getvalue()))"
    )
    found = {name: value for result in told["results"] for name, value in result.items()}
    assert found["text/html"] == "<b>b</b>"
    assert found["text/markdown"] == "*m*"
    assert found["text/latex"] == "$l$"
    assert json.loads(found["application/json"]) == {"a": [1]}
    assert found["image/svg+xml"] == "<svg/>"
    assert found["image/jpeg"].startswith("/9j/")
    assert told["main"] is None
    told = await box.cell("import pandas as pd\npd.DataFrame({'n': ['a', 'b'], 'v': [1.5, None]})")
    table = json.loads(told["results"][0][DATA])
    assert table["columns"] == ["n", "v"]
    assert table["data"] == [["a", 1.5], ["b", None]]
    assert "<table" in told["results"][0]["text/html"]
    told = await box.cell(
        "import matplotlib.pyplot as plt\n"
        "plt.bar(['p', 'q'], [3, 4])\nplt.title('T')\nplt.ylabel('Y')\nplt.show()"
    )
    chart = json.loads(told["results"][0][CHART])
    assert told["results"][0]["image/png"].startswith(PNG)
    assert (chart["type"], chart["title"], chart["y_label"]) == ("bar", "T", "Y")
    assert [(bar["label"], bar["value"]) for bar in chart["elements"]] == [("p", 3), ("q", 4)]
    told = await box.cell("plt.boxplot([[1, 2, 3, 4, 20], [5, 6, 7]], labels=['a', 'b'])\nplt.show()")
    chart = json.loads(told["results"][0][CHART])
    names = ("label", "min", "first_quartile", "median", "third_quartile", "max", "outliers")
    assert chart["type"] == "box_and_whisker"
    assert [[element[name] for name in names] for element in chart["elements"]] == [
        ["a", 1, 2, 3, 4, 4, [20]],
        ["b", 5, 5.5, 6, 6.5, 7, []],
    ]
    told = await box.cell("pd.DataFrame({'u': [1, 2, 3], 'v': [4, 5, 6]}).plot.box(vert=False)\nplt.show()")
    chart = json.loads(told["results"][0][CHART])
    assert [(each["label"], each["median"]) for each in chart["elements"]] == [("u", 2), ("v", 5)]
    told = await box.cell(
        "held = display('0 %', display_id='bar')\nprint('between')\n"
        "for part in (50, 100): held.update(f'{part} %')\n'value'"
    )
    assert [result["text/plain"] for result in told["results"]] == ["'100 %'", "'value'"]
    assert (await box.cell("held.update('later')"))["results"] == [{"text/plain": "'later'"}]


async def test_an_exception_is_told_as_text_and_in_parts(world: World) -> None:
    box = await box_of(world)
    told = await box.cell("def f():\n    return 1 / 0\nf()")
    assert told["exit"] == 1
    assert "ZeroDivisionError: division by zero" in told["error"]
    assert "\x1b" not in told["error"]
    assert told["error_detail"]["name"] == "ZeroDivisionError"
    assert told["error_detail"]["value"] == "division by zero"
    told = await box.cell("def g(:")
    assert told["error_detail"]["name"] == "SyntaxError"
    told = await box.cell("input('?')")
    assert told["error_detail"]["name"].startswith("Stdin")
    assert await box.value("f.__name__") == "'f'"


async def test_a_timeout_and_an_interrupt_stop_the_cell_and_keep_the_kernel(world: World) -> None:
    box = await box_of(world)
    await box.cell("kept = 'here'")
    for code in (
        "import time\ntime.sleep(60)",
        "while True: pass",
        "!sleep 60",
        "import os; os.system('sleep 60')",
    ):
        told = await box.cell(code, status=500, timeout_ms=700)
        assert "timeout" in told["error"]
        assert told["code"] == "cell.timeout"
        assert await box.value("kept") == "'here'"
    running = asyncio.create_task(box.cell("time.sleep(60)", timeout_ms=0))
    await asyncio.sleep(1)
    await box.post(f"{box.context}/interrupt", 204)
    assert (await running)["error_detail"]["name"] == "KeyboardInterrupt"
    assert await box.value("kept") == "'here'"
    await box.post(f"{box.context}/interrupt", 204)  # nothing runs
    assert await box.value("kept") == "'here'"


async def test_a_cell_whose_client_leaves_is_interrupted(world: World) -> None:
    box = await box_of(world)
    await box.cell("import time")
    running = asyncio.create_task(box.cell("time.sleep(600)", timeout_ms=0))
    await asyncio.sleep(1)
    running.cancel()
    began = time.monotonic()
    assert await box.value("'next'") == "'next'"
    assert time.monotonic() - began < 10


async def test_a_restart_forgets_and_a_delete_ends(world: World) -> None:
    box = await box_of(world)
    await box.cell("kept = 'here'")
    began = time.monotonic()
    await box.post(f"{box.context}/restart")
    print("restart", round(time.monotonic() - began, 3))
    assert (await box.cell("kept"))["error_detail"]["name"] == "NameError"
    began = time.monotonic()
    other = await context_of(world, box.id)
    print("another", round(time.monotonic() - began, 3))
    await other.cell("kept = 'there'")
    assert (await box.cell("kept"))["error_detail"]["name"] == "NameError"
    listed = (await world.http.get(f"{box.root}/repl/sessions")).json()
    assert [(one["language"], one["cells"]) for one in listed] == [("python", 2), ("python", 1)]
    assert (await world.http.delete(other.context)).status_code == 204
    assert (await world.http.delete(other.context)).status_code == 404
    assert (await other.cell("1", status=404))["error"].startswith("session not found")
    assert len((await world.http.get(f"{box.root}/repl/sessions")).json()) == 1
    assert await box.value("1 + 1") == "2"
    await spare(world, box.id, there=True)  # made again
    left = await world.exec(box.id, "ps axo args | grep -c '[k]ernels/python.py'")
    assert left["stdout"].strip() == "4"  # of the first context and the spare one, and who has started them
    began = time.monotonic()
    third = await context_of(world, box.id)
    print("the spare one", round(time.monotonic() - began, 3))
    assert await third.value("6 * 7") == "42"
    await spare(world, box.id, there=True)
    words = f"pkill -9 -P $(grep -oE '[0-9]+' {ROOT}/spare-python/session.json)"
    await world.exec(box.id, words)
    await spare(world, box.id, there=False)
    assert await third.value("6 * 7") == "42"


async def spare(world: World, sandbox_id: str, *, there: bool) -> None:
    """Wait until a kernel that was started ahead is there, or nothing of one is."""
    began = time.monotonic()
    while True:
        names = (await world.exec(sandbox_id, f"ls {ROOT}"))["stdout"].split()
        if ("spare-python" in names) if there else not any(name.startswith("spare-") for name in names):
            break
        assert time.monotonic() < began + 60, names
        await asyncio.sleep(0.5)
    print("spare", there, round(time.monotonic() - began, 3))


@pytest.mark.parametrize("how", ["spare", "started"])
async def test_a_kernel_that_is_killed_is_told_and_can_be_restarted(world: World, how: str) -> None:
    box = await box_of(world)
    if how == "started":
        await box.post(f"{box.context}/restart")
    told = await box.cell("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", status=500)
    assert told["code"] == "kernel.died"
    assert "signal 9 (out of memory?)" in told["error"]
    assert (await box.cell("1", status=500))["code"] == "kernel.died"
    await box.post(f"{box.context}/restart")
    assert await box.value("1 + 1") == "2"
    told = await box.cell("import os; os._exit(3)", status=500)
    assert "exit code 3" in told["error"]


async def test_a_flood_is_cut_and_the_kernel_stays(world: World) -> None:
    box = await box_of(world)
    told = await box.cell("for _ in range(3000): print('x' * 10000)\nprint('end')", timeout_ms=120_000)
    assert told["truncated"] is True
    assert told["stdout"].endswith("x\nend\n")
    assert len(told["stdout"]) <= TEXT_MOST
    told = await box.cell(
        "from IPython.display import display, HTML\nfor _ in range(400): display(HTML('y'))",
        timeout_ms=120_000,
    )
    assert (told["truncated"], len(told["results"])) == (True, 256)
    told = await box.cell("display(HTML('z' * 30_000_000))\n'after'", timeout_ms=120_000)
    assert told["truncated"] is True
    assert told["results"] == [{"text/plain": "'after'"}]
    assert await box.value("1 + 1") == "2"


async def test_bash_and_javascript_keep_state_and_are_interrupted(world: World) -> None:
    made = await world.create(template="code-interpreter")
    began = time.monotonic()
    shell = await context_of(world, made["id"], "bash")
    print("bash", round(time.monotonic() - began, 3))
    await shell.cell("cd /tmp; here=kept")
    assert (await shell.cell("echo $PWD $here; echo oops >&2"))["stdout"] == "/tmp kept\n"
    told = await shell.cell("(exit 7)")
    assert (told["exit"], told["error_detail"]["name"]) == (7, "ExitStatus")
    assert "timeout" in (await shell.cell("sleep 60", status=500, timeout_ms=700))["error"]
    assert (await shell.cell("echo $here"))["stdout"] == "kept\n"
    began = time.monotonic()
    script = await context_of(world, made["id"], "js")
    print("javascript", round(time.monotonic() - began, 3))
    assert await script.value("const a = 20; a + 1") == "21"
    assert await script.value("await Promise.resolve(a * 2)") == "40"
    assert (await script.cell("console.log('said'); throw new TypeError('bad')"))["error_detail"]["name"] == (
        "TypeError"
    )
    assert "timeout" in (await script.cell("while (true) {}", status=500, timeout_ms=1500))["error"]
    assert await script.value("a") == "20"
    assert "code-interpreter" in await context_refused(world, made["id"], "cobol")


async def context_refused(world: World, sandbox_id: str, language: str) -> str:
    path = f"/v1/sandboxes/{sandbox_id}/repl/sessions"
    answer = await world.http.post(path, json={"language": language})
    assert answer.status_code == 409, answer.text
    return str(answer.json()["error"])


async def test_a_template_without_kernels_says_so(world: World) -> None:
    made = await world.create(template="base")
    assert "code-interpreter" in await context_refused(world, made["id"], "python")


async def test_a_kernel_that_somebody_installs_is_found(world: World) -> None:
    made = await world.create(template="code-interpreter")
    spec = {
        "argv": ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "language": "mine",
    }
    line = f"mkdir -p /usr/share/jupyter/kernels/mine && echo '{json.dumps(spec)}' > $_/kernel.json"
    await world.exec(made["id"], line)
    box = await context_of(world, made["id"], "mine")
    assert await box.value("6 * 7") == "42"
    told = await box.cell("import time\ntime.sleep(60)", status=500, timeout_ms=700)  # by a signal
    assert "timeout" in told["error"]
    assert await box.value("time.__name__") == "'time'"


async def test_a_context_survives_hibernation_and_a_fork_has_it_too(world: World) -> None:
    box = await box_of(world, persistent=True)
    await box.cell("kept = {'n': 1}")
    await box.post(f"{box.root}/hibernate")
    assert await box.value("kept") == "{'n': 1}"
    answer = await world.http.post(f"{box.root}/fork-tree", json={"count": 3})
    assert answer.status_code in (200, 201), answer.text
    children = [
        Box(world, child["id"], box.context.rpartition("/")[2]) for child in children_of(answer.json())
    ]
    assert len(children) == 3
    for number, child in enumerate(children):
        await child.cell(f"kept['n'] += {number + 1}")
    assert [await child.value("kept['n']") for child in children] == ["2", "3", "4"]
    assert await box.value("kept['n']") == "1"
    drawn = {await child.value("__import__('random').random()") for child in [box, *children]}
    assert len(drawn) == 4


def children_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer.get("children") or answer.get("forks") or answer.get("sandboxes") or [])


DRAWN = (
    "import random, numpy, tempfile\n"
    "(random.random(), numpy.random.rand(), next(tempfile._get_candidate_names()))"
)


async def test_two_sandboxes_of_one_template_draw_different_numbers(world: World) -> None:
    boxes = [await box_of(world) for _ in range(2)]
    drawn = [await box.value(DRAWN) for box in boxes]
    assert drawn[0] != drawn[1]
    for one, other in zip(*(json.loads(f"[{text[1:-1]}]".replace("'", '"')) for text in drawn), strict=True):
        assert one != other


async def test_without_the_renewal_they_draw_the_same(world: World) -> None:
    boxes = [await box_of(world) for _ in range(2)]
    for box in boxes:  # nobody tells the kernel that it is in another machine
        await world.exec(box.id, "rm /run/pandastack/generation")
    drawn = [await box.value("import random, numpy\n(random.random(), numpy.random.rand())") for box in boxes]
    assert drawn[0] == drawn[1]


async def test_the_sdk_streams_interrupts_and_restarts(world: World) -> None:
    async with (
        serving(world.control, "127.0.0.1:0") as url,
        AsyncClient(api_url=url, api_key=TOKEN) as client,
        await client.sandboxes.create("code-interpreter") as sandbox,
        await sandbox.create_code_context() as context,
    ):
        said: list[str] = []
        shown: list[Result] = []
        done = await context.run_code(
            "import sys\nprint('out'); print('err', file=sys.stderr)\n6 * 7",
            on_stdout=said.append,
            on_stderr=said.append,
            on_result=shown.append,
        )
        assert ("".join(sorted(said)), done.text, done.stdout) == ("err\nout\n", "42", "out\n")
        assert [result.is_main_result for result in shown] == [True]
        assert done.kernel_ms is not None and 0 < done.kernel_ms < done.duration_ms + 1
        done = await context.run_code("1 / 0")
        assert done.error_detail is not None
        assert (done.error_detail.name, done.exit_code) == ("ZeroDivisionError", 1)
        with pytest.raises(SandboxTimeout):
            await context.run_code("while True: pass", timeout_seconds=0.5)
        waiting = asyncio.create_task(context.run_code("import time\ntime.sleep(60)", 0))
        await asyncio.sleep(1)
        [same] = await sandbox.code_contexts()
        await same.interrupt()
        assert "KeyboardInterrupt" in ((await waiting).error or "")
        await context.restart()
        assert (await context.run_code("sys")).exit_code == 1
        told = await asyncio.to_thread(blocking, url, sandbox.id)
        assert told == ("1", [1, 2])
        lines = await asyncio.to_thread(commands, url, sandbox.id)
        assert lines == [(0, ""), (0, "21\n"), (1, ""), (7, "said\n")]
        await asyncio.to_thread(typed_cells, url, sandbox.id)
        await language_server(sandbox)
        await asyncio.to_thread(editor, url, sandbox.id)
        left = await sandbox.exec("pgrep -fc '[b]in/pylsp'")
        assert left.stdout.strip() == "0"


def blocking(url: str, sandbox_id: str) -> tuple[str | None, list[int]]:
    """The same through the other half."""
    with Client(api_url=url, api_key=TOKEN) as client:
        sandbox = client.sandboxes.get(sandbox_id)
        with sandbox.create_code_context() as context:
            context.run_code("import pandas")
            table = context.run_code("pandas.DataFrame({'a': [1, 2]})").results[0].table
            return context.run_code("1").text, [row[0] for row in (table or {})["data"]]


def commands(url: str, sandbox_id: str) -> list[tuple[int, str]]:
    """And from the command line: exit codes and what was said."""
    environment = {**os.environ, "PANDASTACK_API": url, "PANDASTACK_API_KEY": TOKEN}
    cells = (["x = 20"], ["x + 1"], ["1 / 0"], ["-l", "bash", "echo said; (exit 7)"])
    done = [
        subprocess.run(
            [PROGRAM, "code", sandbox_id, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for words in cells
    ]
    return [(each.returncode, each.stdout) for each in done]
