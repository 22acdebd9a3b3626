"""Requests to services in sandboxes, handed on by both fronts: the API and the gateway."""
