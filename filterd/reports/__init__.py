"""Aggregate reports: what DMARC saw, told to the owners of the domains; and what others tell us (DMARC, TLS)."""
