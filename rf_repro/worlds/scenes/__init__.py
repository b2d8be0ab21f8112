"""The procedural world of `tiny` and `small`."""
