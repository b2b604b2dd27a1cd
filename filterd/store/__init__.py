"""Message stores: one contract, several implementations (memory, Maildir)."""
