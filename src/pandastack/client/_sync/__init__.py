# Made from `../_async/__init__.py` by `scripts/unasync`: change that file.
"""The SDK for blocking code."""
