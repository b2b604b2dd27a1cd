"""Tools for people who write rules: the svtest runner, rule tests over a folder of mails, the formatter."""
