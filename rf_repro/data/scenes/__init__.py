"""The procedural world of the `tiny` and `small` scales: scenes of coloured shapes with GenEval's prompts. Imports no torch."""
