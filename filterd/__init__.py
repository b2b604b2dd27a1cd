"""filterd: a filtering-centric mail delivery agent and complete small mail server."""

__version__ = "0.1.0"
