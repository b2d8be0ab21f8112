"""The experiment's typed configuration, its scales and overrides. Imports no torch."""
