"""pipeline: what happens to one message, as values; no servers and no disks of its own."""
