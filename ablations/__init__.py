"""The paper's ablation tables as grids of variants, and its claims as data. Imports no torch."""

PART_OF = "rf_repro"  # not in what another distribution may install over it: see rf_repro.core.import_path
