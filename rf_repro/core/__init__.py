"""Records, run directories, hashing, seeds and atomic files. Imports no torch."""
