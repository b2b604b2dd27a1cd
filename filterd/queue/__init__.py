"""Everything that leaves: the durable spool, its schedule, the outbound client, delivery status notifications."""
