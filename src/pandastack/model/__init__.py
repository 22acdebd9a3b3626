"""Frozen values, one type a noun: what a service returns is what the wire carries. No I/O here."""
