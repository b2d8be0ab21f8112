"""Benchmarks of generated images and of understanding. They know images, never the model that made them.

Each is a package with `evaluate` and `Options`; every result is an `EvalResult`, and what a caller can mend is a `UserError`.
"""

from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult

__all__ = ["EvalResult", "UserError"]

PART_OF = "rf_repro"  # not in what another distribution may install over it: see rf_repro.core.import_path
