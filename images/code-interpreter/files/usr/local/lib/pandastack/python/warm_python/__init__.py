"""The Python side of the warm interpreter: what is loaded ahead, and how a copy of it becomes somebody's program."""

import sys

AT_START = frozenset(sys.modules) - {__name__}
"""What a Python that has just started has loaded."""

from warm_python.recorder import Recorder  # noqa: E402 - it imports nothing new; whatever does is to be recorded


def warm(leave):  # noqa: ANN001, ANN201 - the types' names would have to be imported
    """Load everything and put it out of sight; returns what programs start from."""
    sys.path.remove(__path__[0].rpartition("/")[0])
    with Recorder() as recorder:
        from warm_python.ahead import load_ahead  # noqa: PLC0415 - only here it is recorded

        return load_ahead(AT_START, recorder, leave)
