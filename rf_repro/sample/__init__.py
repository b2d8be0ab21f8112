"""Inference in two stages (paper App. A): representation tokens autoregressively, then pixels by flow."""
