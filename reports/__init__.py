"""Tables, plots and verdicts, built from run directories alone. Imports no torch."""

PART_OF = "rf_repro"  # not in what another distribution may install over it: see rf_repro.core.import_path
