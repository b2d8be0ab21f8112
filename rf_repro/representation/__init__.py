"""Targets of representation tokens: online vector quantisation of the encoder's features."""
