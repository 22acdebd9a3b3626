"""Memory that the kernel wipes in a forked child is wiped in another life of the machine too."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .test_hooks import CHILD, PARENT, Root, gated, line, root, rooted, send_gate
from .wire import Wire

NAME = b"wipe-on-restore"
SOURCE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words)
{
    int size = 3 * 4096, letter;
    setvbuf(stdin, NULL, _IONBF, 0);
    char *kept = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *wiped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(kept, 'k', size);
    memset(wiped, 'w', size);
    if (madvise(wiped, size, MADV_WIPEONFORK) != 0)
        return 1;
    while ((letter = getchar()) != EOF) {
        if (letter == 'e')
            execv(words[0], words);
        int left = 0;
        for (int at = 0; at < size; at++)
            left += (wiped[at] == 'w') + (kept[at] == 'k');
        printf("%d\n", left);
        fflush(stdout);
    }
    return 0;
}
"""
WHOLE, WIPED = 6 * 4096, 3 * 4096

__all__ = ["line", "root", "rooted"]  # fixtures


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wiped")
    (folder / "program.c").write_text(SOURCE)
    path = folder / "program"
    subprocess.run(["gcc", "-o", path, folder / "program.c"], check=True)
    return path


class Running:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def left(self, order: str = "?") -> int:
        """How many of its bytes are as they were."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(order)
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def running(program: Path) -> Iterator[Running]:
    words = [str(program)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        one = Running(process)
        assert one.left() == WHOLE
        yield one


def listed(root: Root, *paths: Path) -> Path:
    file = root.path / "etc/pandastack/wipe-on-restore"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{path}\n" for path in paths))
    file.chmod(0o644)
    return file


def life(line: Wire, machine: str) -> list[bytes]:
    """What is told of another life."""
    send_gate(line, machine)
    errno, hooks, failed = gated(line)
    assert (errno, hooks) == (0, 0)
    return failed


def test_programs_of_the_list_are_wiped_and_nothing_else(root: Root, line: Wire, program: Path) -> None:
    listed(root, Path("/bin/other"), program)
    other = program.with_name("other")
    other.write_bytes(program.read_bytes())
    other.chmod(0o755)
    with running(program) as one, running(program) as two, running(other) as control:
        assert life(line, PARENT) == []
        assert [one.left(), two.left(), control.left()] == [WIPED, WIPED, WHOLE]


def test_a_program_that_begins_again_is_found_anew(root: Root, line: Wire, program: Path) -> None:
    """In the same process: what was known of it is somewhere else."""
    listed(root, program)
    with running(program) as one:
        line.seal()
        assert one.left("e?") == WHOLE
        assert life(line, PARENT) == []
        assert one.left() == WIPED
        assert one.left("e?") == WHOLE
        assert life(line, CHILD) == []
        assert one.left() == WIPED


def test_a_list_that_others_can_write_is_none(root: Root, line: Wire, program: Path) -> None:
    file = listed(root, program)
    file.chmod(0o666)
    with running(program) as one:
        assert life(line, PARENT) == [NAME]
        file.chmod(0o644)
        file.rename(file.with_name("elsewhere"))
        file.symlink_to("elsewhere")
        assert life(line, CHILD) == []
        assert one.left() == WHOLE


def test_without_a_list_at_the_seal_the_next_life_does_not_look(
    root: Root, line: Wire, program: Path
) -> None:
    line.seal()
    listed(root, program)
    with running(program) as one:
        assert life(line, PARENT) == []
        assert one.left() == WHOLE
        assert life(line, CHILD) == []
        assert one.left() == WIPED
