"""Images to make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One image to make: the prompt, its metadata, the index among the prompt's images, and the generator's seed."""

    prompt_id: int
    sample: int
    metadata: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Batch:
    """Images to make together: texts of one length, int64 [B, T], and a seed for each."""

    text_ids: Tensor
    seeds: Sequence[int]
