"""Losses, the optimiser with fp32 masters, EMA, checkpoints, and the one training loop."""
