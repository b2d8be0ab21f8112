"""Ours against peers, in one table: `make bench` installs the peers and runs `python -m benchmarks.peers`."""
