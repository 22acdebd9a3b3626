"""The namespaces in which images are built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pandastack.host.rootfs import wrapper

ENTER = """
mount --make-rprivate / 2>/dev/null || true  # of a root that is no mount point there is nothing to share
for each in /*; do
    [ -d "$each" ] && [ ! -L "$each" ] && [ "$each" != /tmp ] || continue
    mkdir "$1$each"
    mount --rbind "$each" "$1$each"
done
for each in /*; do
    [ ! -L "$each" ] || cp -a "$each" "$1$each"
done
mkdir -p "$1/tmp"
case "$5" in /tmp/*) mkdir -p "$1$5"; mount --bind "$5" "$1$5" ;; esac
[ "$2" = with ] || umount --lazy "$1/proc"
before=$(wc -l < /proc/self/mountinfo)
status=0
chroot "$1" "$3" -c "$4" || status=$?
[ "$before" -eq "$(wc -l < /proc/self/mountinfo)" ]
exit $status
"""
"""Makes a root directory that is no mount point out of this machine's own, and enters it."""

TRY = """
import os
from pandastack.host.rootfs import wrapper
line = "mount -t tmpfs none /tmp && echo $$ $(id -u) $(ls /proc | grep -c '^[0-9]')"
command = [*wrapper(), "sh", "-c", line]
os.execvp(command[0], command)
"""


def in_chroot(root: Path, proc: str) -> subprocess.CompletedProcess[str]:
    """`TRY` in a chroot below `root`, `with` or `without` /proc."""
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    checkout = str(Path(__file__).parents[2])
    enter = ["sh", "-euc", ENTER, "sh", str(root), proc, sys.executable, TRY, checkout]
    return subprocess.run(
        ["unshare", "--mount", "--propagation=unchanged", *as_root, "--", *enter],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_root_that_is_a_mount_point_needs_nothing_more() -> None:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert ("chroot" in " ".join(wrapper())) is ("/" not in points)


def test_a_chroot_that_is_no_mount_point_is_as_good(tmp_path: Path) -> None:
    done = in_chroot(tmp_path, "with")
    assert (done.stderr, done.returncode) == ("", 0)
    process, user, processes = done.stdout.split()
    assert (process, user) == ("1", "0")
    assert int(processes) < 5


def test_without_proc_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = in_chroot(tmp_path, "without")
    assert done.returncode != 0
    assert "mount -t proc proc /proc" in done.stderr
