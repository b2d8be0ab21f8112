"""Equations without a model: the flow, its schedule, guidance, layers."""
