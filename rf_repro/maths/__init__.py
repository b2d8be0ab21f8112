"""Equations without a model: the flow, its schedule, guidance, layers. All that builds a model starts from here, so
an older torch is refused here."""

import torch

from rf_repro.core.errors import UserError

OLDEST_TORCH = (2, 13)  # what models and training were tested with; 2.10 lacks parts they use

if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
    needed = ".".join(map(str, OLDEST_TORCH))
    raise UserError(
        f"torch={torch.__version__}: must be >= {needed} for models, their training and samples; scoring images and answers does "
        f"without: pip install --upgrade 'torch>={needed}', and torchvision along with it where it is installed"
    )
