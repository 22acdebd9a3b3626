"""Rows, on a real database."""
