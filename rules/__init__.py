"""rules: the Sieve mail filtering language (RFC 5228 and its family), usable alone."""
