"""Learning what is spam: from moves by IMAP and from commands, durable, by every engine once."""
