"""Runs on this machine: what is left to do, and processes that do it."""
