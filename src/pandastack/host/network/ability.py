"""Whether this machine can give sandboxes networks of their own."""

from __future__ import annotations

import os
import shutil

from pandastack.errors import MachineError
from pandastack.host.network import namespace
from pandastack.host.network.rules import TAP

PROGRAMS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
"""What makes them, and the packages it is in."""


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLACES = {"PATH": PATH}
"""Where they are looked for: a user's path may lack the places of an administrator's programs."""


def lacking() -> str | None:
    """Why not, in a few words; None when they can be had. Tried with one that vanishes again."""
    if os.geteuid() != 0:
        return "not root"
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=PATH) is None:
            return f"{program} (package {package}) is not installed"
    try:
        os.close(namespace.idle_tap())
    except FileNotFoundError:
        return f"{namespace.TUN} does not exist"
    except (OSError, MachineError) as error:
        return f"the kernel refuses {TAP}: {error}"
    return None
