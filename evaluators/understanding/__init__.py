"""The understanding benchmarks of the paper's Tables 2 and 3e: their data, prompts, parsers and scores, for any model."""
