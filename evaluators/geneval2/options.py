"""What GenEval 2 and VLM-judged GenEval have in common: options about images, and their check before a model is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluators.geneval.folder import Scan
from evaluators.problems import report_problems
from evaluators.results import Tell
from evaluators.vlm.options import ModelOptions
from rf_repro.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ImageOptions(ModelOptions):
    """
    Args:
        digests: (prompt id, sample) -> SHA-256 that each image must have; None: any will do.
        partial: score what is there, and say in the result that it is not all.
    """

    digests: Mapping[tuple[int, int], str] | None = None
    partial: bool = False

    def require_images(self, found: Scan, name: str, tell: Tell) -> None:
        """Says what is amiss with the images; in `out` also as NAME-problems.txt.

        Raises:
            UserError: images are missing and `partial` is off, or there is none, or one has another digest.
        """
        report_problems(found.problems, Path(self.out) / f"{name}-problems.txt" if self.out else None, tell)
        if len(found.images) < found.expected and not self.partial:
            raise UserError(
                f"{found.root}: {len(found.images)} of {found.expected} images can be scored; complete them, or give partial=True"
            )
        if not found.images:
            raise UserError(f"{found.root}: none of {found.expected} images can be scored")
        found.require_same(self.digests)
