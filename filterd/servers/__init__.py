"""Thin asyncio shells round the cores in ``filterd.proto`` and ``filterd.imap`` (STYLE section 2)."""
