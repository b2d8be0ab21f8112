"""What a run costs before it is started: parameters, FLOPs, memory of a GPU, hours."""
