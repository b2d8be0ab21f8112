"""What is trained on and scored with: one object for the scenes, one for image-text data."""
