"""Listeners, TLS contexts, admission and the transport half every protocol's shell shares."""
