"""Where samples come from: the procedural scenes world and image-text data."""
