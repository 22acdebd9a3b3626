from __future__ import annotations

import sys

from . import PROGRAMS

PROGRAMS[sys.argv[1]](sys.argv[2])
