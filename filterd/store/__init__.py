"""Message stores: one contract (``base``), several implementations (memory, Maildir)."""
