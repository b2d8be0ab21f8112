"""Benchmarks of generated images and of understanding. They know images, never the model that made them."""

PART_OF = "rf_repro"  # not in what another distribution may install over it: see rf_repro.core.import_path
