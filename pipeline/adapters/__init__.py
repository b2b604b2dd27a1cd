"""The only importers of third-party packages: one module a package, each behind one of our Protocols or functions."""
