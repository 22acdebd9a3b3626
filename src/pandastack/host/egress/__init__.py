"""The egress process of a host: a proxy and a resolver that decide by name, for every sandbox of it.

It runs beside the host as an unprivileged user and is told what to do over one socket (`orders`, `channel`);
the host's end is `client`. A connection on a slot's listener is that guest's by construction, since the
listener is bound inside the slot's network namespace.
"""
