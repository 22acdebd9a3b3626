"""The front for who comes by SSH: a listener of its own, which may face the internet."""
