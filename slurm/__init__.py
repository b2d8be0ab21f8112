"""Planning a grid of runs from the files they leave, and running it through Submitit."""

PART_OF = "rf_repro"  # not in what another distribution may install over it: see rf_repro.core.import_path
