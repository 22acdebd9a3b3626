"""The network of a host's machines: one namespace each, made ahead, handed out and taken back.

A guest has one network device, whose other end, a tap, lies in a namespace of its own. In it the guest's
packets are checked, its address is replaced by the slot's, and what may leave goes through a pair of virtual
devices to the host, which checks once more. Every guest sees the same addresses, so that a snapshot goes on
anywhere.
"""
