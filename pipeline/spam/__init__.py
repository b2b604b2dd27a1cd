"""Engines that say how spammy a message is: spamd, rspamd, and a Bayes classifier of our own."""
