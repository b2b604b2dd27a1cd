"""The quarantine: what a check or a late refusal held back, per recipient, until it is released, dropped or too old."""
