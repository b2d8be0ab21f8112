"""The actions of a run: train, sample, evaluate."""
