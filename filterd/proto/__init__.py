"""Sans-IO protocol cores: bytes in, events and bytes out. No socket, no clock, no file (STYLE section 2)."""
