"""Why is this mail where it is: the trace store and its reader."""
