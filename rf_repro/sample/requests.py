"""Images to make."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One image to make: the prompt, its metadata, the index among the prompt's images, and the generator's seed."""

    prompt_id: int
    sample: int
    metadata: dict[str, Any]
    seed: int
