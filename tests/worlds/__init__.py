"""Tests of rf_repro.worlds."""
