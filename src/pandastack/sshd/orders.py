"""Orders to the guest that its agent has no word for: lines for the guest's own shell, which gets every path
as an argument of its own and reads none of them as code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncssh

from pandastack.errors import FileMissing, FileRefused, PandastackError
from pandastack.model.guest import Channel, Command, Guest, Process

PATIENCE_MS = 60_000
TOLD_MOST = 64 << 10
"""Bytes of what an order says that are kept."""
MISSING_SHELL = 127

READY = b"+"
OPEN = """
umask 077
[ -e "$1" ] || new=yes
case $3 in
*x*) set -C; true >"$1" || exit 1; set +C ;;
*c*) true >>"$1" || exit 1 ;;
*) true <"$1" || exit 1 ;;
esac
[ -z "$new" ] || chmod "$2" -- "$1" || exit 1
case $3 in *t*) true >"$1" || exit 1 ;; esac
case $3 in *a*) exec 3>>"$1" ;; *) exec 3<>"$1" ;; esac
if [ "$4" != 0 ]; then dd bs=1 seek="$4" count=0 conv=notrunc >&3 2>/dev/null || exit 1; fi
printf + >&2
exec cat >&3
"""
"""Opens file $1 as $3 says (c create with mode $2, x that must not be there, t empty, a at its end) and
writes what comes from byte $4 on.
"""
LINK = """
if [ -e "$3" ] || [ -L "$3" ]; then echo "File exists" >&2; exit 1; fi
case $1 in s) exec ln -s -- "$2" "$3" ;; *) exec ln -- "$2" "$3" ;; esac
"""
CHANGE = """
[ -z "$2" ] || truncate -s "$2" -- "$1" || exit 1
[ -z "$3" ] || chown $6 "$3" -- "$1" || exit 1
[ -z "$4" ] || touch $6 -c -a -d "@$4" -- "$1" || exit 1
[ -z "$5" ] || touch $6 -c -m -d "@$5" -- "$1" || exit 1
"""
"""Sets of $1 the size, the owner, when it was read and when it was written, as far as they are given; of a
link itself when $6 is -h.
"""
REAL = 'exec readlink -f -- "$1"'
ROOM = 'exec stat -f -c "%S %b %f %a %c %d %l" -- "$1"'
HERE = 'printf %s "$PWD"'
FLUSH = 'exec sync -- "$1"'


class Orders:
    """Orders of one user of a guest."""

    def __init__(self, guest: Guest, user: str | None, new_id: Callable[[], str]) -> None:
        self._guest = guest
        self._user = user
        self._new_id = new_id

    @asynccontextmanager
    async def begun(self, script: str, *words: str, stdin: bool, bounded: bool) -> AsyncIterator[Process]:
        """An order while it is carried out; leaving kills what is left of it."""
        command = Command(
            process_id=self._new_id(),
            argv=("/bin/sh", "-c", script, "sh", *words),
            env={"LC_ALL": "C"},
            user=self._user,
            stdin=stdin,
            timeout_ms=PATIENCE_MS if bounded else None,
        )
        async with self._guest.run(command) as process:
            yield process

    async def told(self, script: str, *words: str) -> bytes:
        """What an order says that is carried out to its end. Errors: SFTPError."""
        said = {Channel.STDOUT: b"", Channel.STDERR: b""}
        async with self.begun(script, *words, stdin=False, bounded=True) as process:
            async for piece in process.output():
                said[piece.channel] = (said[piece.channel] + piece.data)[:TOLD_MOST]
            ended = await process.wait()
        if ended.exit_code:
            raise complaint(said[Channel.STDERR], ended.exit_code)
        return said[Channel.STDOUT]


def complaint(said: bytes, exit_code: int) -> asyncssh.SFTPError:
    """What a program of the guest complains of, as the error that it means."""
    text = said.decode("utf-8", "replace").strip()[-400:]
    if "No such file" in text:
        return asyncssh.SFTPNoSuchFile(text)
    if "ermission denied" in text or "not permitted" in text:
        return asyncssh.SFTPPermissionDenied(text)
    if exit_code == MISSING_SHELL:
        return asyncssh.SFTPFailure(f"The sandbox lacks a program for this: {text}")
    return asyncssh.SFTPFailure(text or f"It ended with {exit_code}.")


def failure(error: PandastackError) -> asyncssh.SFTPError:
    """An error of the guest, or of ours, as SFTP tells it."""
    if isinstance(error, FileMissing):
        return asyncssh.SFTPNoSuchFile(error.message)
    if isinstance(error, FileRefused) and error.details.get("errno") in {"EACCES", "EPERM"}:
        return asyncssh.SFTPPermissionDenied(error.message)
    return asyncssh.SFTPFailure(error.message)
