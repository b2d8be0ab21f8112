"""Exact evaluators of the scenes world: a template detector and a palette classifier. They import no torch."""
