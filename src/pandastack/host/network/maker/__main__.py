"""The program: `python -m pandastack.host.network.maker --control FD`. It is started by the host, never by
hand.
"""

from __future__ import annotations

import argparse
import resource
import socket

from pandastack.host.network.maker.library import NAME, Library
from pandastack.host.network.maker.orders import Answer
from pandastack.host.network.maker.server import Server, say

LIMITS = {
    resource.RLIMIT_NOFILE: 256,  # far below the number at which the library ends the process
    resource.RLIMIT_DATA: 1 << 28,  # whatever the library should lose, it does not take the host's memory
    resource.RLIMIT_CORE: 0,
}


def main() -> None:
    """Serve until the host closes the control socket."""
    parser = argparse.ArgumentParser(prog="pandastack.host.network.maker")
    parser.add_argument("--control", type=int, required=True, help="a connected Unix socket, by number")
    parser.add_argument("--library", default=NAME)
    wishes = parser.parse_args()
    for limit, most in LIMITS.items():
        resource.setrlimit(limit, (most, most))
    with socket.socket(fileno=wishes.control) as control:
        try:
            library = Library(wishes.library)
        except OSError as error:
            say(control, Answer(error=str(error)))
        else:
            Server(control, library).run()


if __name__ == "__main__":
    main()
