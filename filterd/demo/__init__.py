"""The demonstration: a whole mail server on loopback, sample mail through it, and what to type next."""
