"""Message syntax: the lowest leaf, which the language, the stages and IMAP all read messages through.

Everything works on bytes with offsets, is iterative and bounded, and never raises on any input. Nothing here
re-serialises a received message: callers splice bytes at the offsets found here.

  limits    every bound, named                     header   field boundaries of a header
  findings  what was odd or over a limit           address  RFC 5322 address lists
  charset   octets to text                         date     RFC 5322 dates, IMAP internal dates
  words     RFC 2047 encoded words                 params   RFC 2045 parameters with RFC 2231
  encoding  base64 and quoted-printable            mime     the tree of parts
  message   one message, everything read lazily
"""
