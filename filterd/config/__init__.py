"""Configuration: TOML read into frozen dataclasses, every mistake of a file told at once, with line and column."""
