"""The maker: a process of the host that makes the networks of slots, and has `nft` loaded for their rules."""
