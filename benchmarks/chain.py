"""Whether the fiftieth fork, and a create behind fifty snapshots, still cost what the first did."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.api import JSON
from benchmarks.notebook import Notebook
from benchmarks.own import LAYERS, MB, fill, own_of, pid_of
from benchmarks.question import Question, Stage
from benchmarks.result import Answer, Bar, at_most
from pandastack.host.zygotes import MOST_COPIES

OWN_BYTES = 8 << 20
ENDS = 10
"""So many at the beginning are compared with so many at the end."""
FROM_FILES = 15
WARM_UP = 3
LIMIT = 1.2
WRITE = "head -c 1048576 /dev/urandom > /dev/shm/changed; head -c 262144 /dev/urandom > /root/changed; sync"

HOW = (
    f"A sandbox that has {OWN_BYTES >> 20} MiB of random bytes in its memory is forked again and again;"
    " between forks it writes 1 MiB anew in memory and 256 KiB on its disk. Then a chain: of a sandbox a"
    " snapshot is taken, from that the next sandbox is created, the first is deleted, the next writes as"
    " much, and so on; each of these creates is served by the copy of a process. At last sandboxes are"
    " created from the first and the last snapshot in turn, when both are restored from their files."
    " Between all of them sandboxes are created from the template. The median of the first"
    f" {ENDS} is compared with that of the last {ENDS}."
)


def measure(stage: Stage, count: int) -> Answer:
    """Fork one parent `count` times, and make a chain of as many snapshots."""
    _warm_up(stage)
    notes = Notebook(stage)
    facts = _forks(stage, notes, count) | _chain(stage, notes, count)
    return notes.answer(HOW, _bars(notes), facts | _ratios(notes))


def _warm_up(stage: Stage) -> None:
    notes = Notebook(stage)
    for _ in range(WARM_UP):
        notes.create()
    with stage.api.sandbox() as source:
        _fork(stage, notes, source)
        snapshot, _ = stage.api.order(source, "snapshots")
        with stage.api.sandbox(from_snapshot=snapshot["id"]):
            stage.api.drop(snapshot["id"])


def _forks(stage: Stage, notes: Notebook, count: int) -> dict[str, float | str]:
    with stage.api.sandbox() as parent:
        fill(stage.api, parent, OWN_BYTES)
        for number in stage.times(count, "forks of one parent"):
            with notes.attempt(f"fork {number}"):
                stage.api.exec(parent, "sh", "-c", WRITE)
                notes.create()
                _fork(stage, notes, parent)
        return _held("the parent that was forked", stage, parent)


def _fork(stage: Stage, notes: Notebook, parent: str) -> None:
    litter, wall = stage.api.order(parent, "fork")
    stage.api.delete(litter["sandbox"]["id"])
    notes.add(fork_ms=wall)


def _held(who: str, stage: Stage, sandbox_id: str) -> dict[str, float | str]:
    own = own_of(stage, sandbox_id, pid_of(stage.api, sandbox_id))
    return {
        f"disk layers of {who}": own.layers,
        f"disk layers of {who}, MB": round(own.disk / MB, 2),
        f"pages of {who} that its base does not hold, MB": round(own.pages / MB, 2),
    }


def _chain(stage: Stage, notes: Notebook, count: int) -> dict[str, float | str]:
    """As long as it can be made: a link that fails is the last one."""
    with ExitStack() as taken:
        sandbox_id = stage.api.create()[0]["id"]
        fill(stage.api, sandbox_id, OWN_BYTES)
        snapshots: list[JSON] = []
        for number in stage.times(count, "snapshots in a chain"):
            following = None
            with notes.attempt(f"link {number}"):
                snapshots.append(_snapshot(stage, notes, sandbox_id, taken))
                following = _next(stage, notes, sandbox_id, snapshots[-1])
            if following is None:
                break
            sandbox_id = following
        facts = _held("the last sandbox of the chain", stage, sandbox_id) | _stored(stage, snapshots)
        stage.api.delete(sandbox_id)
        _push_out(stage, taken)
        _from_files(stage, notes, snapshots[:1], snapshots[-1:])
    return facts


def _snapshot(stage: Stage, notes: Notebook, sandbox_id: str, taken: ExitStack) -> JSON:
    stage.api.exec(sandbox_id, "sh", "-c", WRITE)
    notes.create()
    snapshot, wall = stage.api.order(sandbox_id, "snapshots")
    taken.callback(stage.api.drop, snapshot["id"])
    notes.add(link_snapshot_ms=wall, link_size_MB=snapshot["size_bytes"] / MB)
    return snapshot


def _next(stage: Stage, notes: Notebook, sandbox_id: str, snapshot: JSON) -> str:
    """The sandbox that takes the place of the one that the snapshot was taken of."""
    notes.create()
    following, create = stage.api.create(from_snapshot=snapshot["id"])
    stage.api.delete(sandbox_id)
    notes.add(link_create_ms=create)
    return str(following["id"])


def _push_out(stage: Stage, taken: ExitStack) -> None:
    """More snapshots than copies are kept, so that no copy serves the earlier ones any more."""
    with stage.api.sandbox() as other:
        for _ in range(MOST_COPIES + 1):
            taken.callback(stage.api.drop, stage.api.order(other, "snapshots")[0]["id"])


def _from_files(stage: Stage, notes: Notebook, first: list[JSON], last: list[JSON]) -> None:
    for _ in stage.times(FROM_FILES, "creates from the first and the last snapshot"):
        notes.create()
        for name, snapshots in (("first", first), ("last", last)):
            for snapshot in snapshots:
                with notes.attempt(f"create from the {name} snapshot"):
                    sandbox, create = stage.api.create(from_snapshot=snapshot["id"])
                    stage.api.delete(sandbox["id"])
                    notes.add(**{f"from_files_of_{name}_ms": create})


def _stored(stage: Stage, snapshots: list[JSON]) -> dict[str, float | str]:
    """What the snapshots take together; a file that many of them share counts once."""
    homes = [home for each in snapshots for home in stage.server.state.glob(f"*/{each['id']}")]
    taken = {path.stat().st_ino: path.stat().st_blocks * 512 for home in homes for path in home.iterdir()}
    layers = [_layers(home) for home in homes]
    return {
        "disk layers of the first and the last snapshot": ", ".join(map(str, layers[:1] + layers[-1:])),
        "storage of all snapshots of the chain, MB": round(sum(taken.values()) / MB, 1),
    }


def _layers(home: Path) -> int:
    return sum(1 for _ in home.glob(LAYERS))


def _bars(notes: Notebook) -> list[Bar]:
    files = notes.of("from_files_of_last_ms").p50 / notes.of("from_files_of_first_ms").p50
    return [
        _no_growth(notes, "forks of one parent", "fork_ms"),
        _no_growth(notes, "creates along a chain of snapshots", "link_create_ms"),
        at_most("create from the last snapshot of the chain / the first, both from files", files, LIMIT, "×"),
    ]


def _no_growth(notes: Notebook, what: str, name: str) -> Bar:
    count = notes.of(name).count
    ends = min(ENDS, count)
    return at_most(
        f"p50 of the last {ends} of {count} {what} / of the first", _growth(notes, name), LIMIT, "×"
    )


def _ratios(notes: Notebook) -> dict[str, float | str]:
    return {
        "snapshots of the chain, p50 of the last / of the first": round(
            _growth(notes, "link_snapshot_ms"), 2
        ),
        "their sizes, p50 of the last / of the first": round(_growth(notes, "link_size_MB"), 2),
        "creates in between, p50 of the last / of the first": round(_growth(notes, "create_ms"), 2),
        "p50 of create from files of the first / p50 of create": round(
            notes.creates("from_files_of_first_ms"), 2
        ),
        "p50 of create from files of the last / p50 of create": round(
            notes.creates("from_files_of_last_ms"), 2
        ),
    }


def _growth(notes: Notebook, name: str) -> float:
    """The median of the last ones in medians of the first ones."""
    samples = notes.samples[name]
    return median(samples[-ENDS:]) / median(samples[:ENDS])


QUESTION = Question(
    "whether the fiftieth fork and snapshot cost what the first did", measure, count=50, quick=3
)
