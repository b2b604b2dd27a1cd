"""DKIM and ARC: our own verifier and the parts that signing shares with it.

Specification: RFC 6376, RFC 8301 (no SHA-1, no short keys), RFC 8463 (Ed25519), RFC 8616 (internationalised), and for
``pipeline.dkim.arc`` RFC 8617. Sans-IO: DNS answers and body octets are given in, results come out.
"""
