"""Planning a grid of runs from the files they leave, and running it through Submitit."""
