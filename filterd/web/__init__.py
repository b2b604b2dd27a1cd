"""Pages. In this version: the one that a link of a digest leads to."""
