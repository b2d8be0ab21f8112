"""Reproduction of *Representation Forcing for Bottleneck-Free Unified Multimodal Models* (arXiv 2605.31604)."""

__version__ = "0.1.0"
