"""Who has mail here: directory, passwords, aliases, scripts."""
