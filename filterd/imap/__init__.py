"""The IMAP server: a sans-IO core (``session``), one file per command (``cmd``), one per extension (``ext``)."""
