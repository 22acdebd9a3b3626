"""The front for visitors of sandboxes: a listener of its own, which faces the internet."""
