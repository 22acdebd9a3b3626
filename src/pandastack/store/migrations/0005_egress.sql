-- What a sandbox may reach. Those that were there before could reach nothing, and could have what the default gives.
ALTER TABLE sandboxes ADD COLUMN egress TEXT NOT NULL DEFAULT '{}';
ALTER TABLE snapshots ADD COLUMN egress TEXT;
