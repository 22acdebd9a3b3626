"""Commands: what they get, what they give, how they end."""

from .wire import Wire


def test_output_and_exit_code(wire: Wire) -> None:
    outcome = wire.shell("echo out; echo err >&2; exit 3")
    assert (outcome.out, outcome.err, outcome.number("EXIT_CODE")) == (b"out\n", b"err\n", 3)
