"""Grids of runs on clusters, through SLURM and Submitit; runs on this machine are `rf_repro.launch`."""

PART_OF = "rf_repro"  # not in what another distribution may install over it: see rf_repro.core.import_path
