"""GenEval's colour classifier for real images."""
