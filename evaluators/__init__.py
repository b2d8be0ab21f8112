"""Benchmarks of generated images and of understanding. They know images, never the model that made them."""
