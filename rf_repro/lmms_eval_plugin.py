"""A run as a model of lmms-eval (0.7), for those who use that harness: `pip install -e '.[lmms]'` registers it as `rf_repro`:

    lmms-eval --model rf_repro --model_args run=RUN_DIR --tasks mmmu_val --batch_size 1

The harness finds it by the entry point `lmms_eval.models` of this package. Where the package is not installed, name it first:

    from lmms_eval.models import MODEL_REGISTRY_V2
    MODEL_REGISTRY_V2.register_manifest(rf_repro.lmms_eval_plugin.manifest())

`--device` takes what `rf-repro` takes; under several processes each has the GPU of its local rank. Answers are greedy: a task
that samples is refused (`--gen_kwargs do_sample=False,temperature=0` changes it). lmms_eval is imported when the class is first
asked for, never with this module.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from evaluators.vlm.protocol import Parts, SomeFailed
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir

MAX_NEW_TOKENS = 1024  # where a task names no limit


def manifest() -> Any:
    """What lmms-eval's registry wants to know. Raises ImportError without lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="rf_repro", simple_class_path=f"{__name__}.RFRun")


def __getattr__(name: str) -> Any:
    if name == "RFRun":
        return _make_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _make_class() -> type:
    from lmms_eval.api.model import lmms

    class RFRun(lmms):
        """`run`: a run directory with a checkpoint. `batch_size`: questions at once."""

        is_simple = True

        def __init__(
            self, run: str, device: str | None = None, batch_size: int | str = 1, max_batch_size: int | None = None
        ) -> None:
            from rf_repro.experiment.vlm import load_rf_vlm

            super().__init__()
            if not str(batch_size).isdigit() or int(batch_size) < 1:
                raise UserError(f"batch_size={batch_size}: must be a whole number >= 1")
            self.device, self.batch_size = _device(device or "auto"), int(batch_size)
            self.vlm = load_rf_vlm(RunDir.open(Path(run), "run"), self.device)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Answers, cut before the first of a task's `until`. Raises UserError when the model cannot be asked one of them."""
            asked = [self._asked(request.args, request.args[2:]) for request in requests]
            settings = [dict(request.args[1]) for request in requests]
            answers = [""] * len(requests)
            # Those of one limit together; the harness keeps tasks together, so batches are full.
            for limit in dict.fromkeys(_limit(own) for own in settings):
                same = [index for index, own in enumerate(settings) if _limit(own) == limit]
                for first in range(0, len(same), self.batch_size):
                    rows = same[first : first + self.batch_size]
                    try:
                        found = self.vlm.answer([asked[row] for row in rows], limit)
                    except SomeFailed as some:
                        raise UserError(f"{requests[rows[0]].task_name}: {some}; this model cannot run the task") from None
                    for row, answer in zip(rows, found, strict=True):
                        answers[row] = _cut(answer, settings[row].get("until"))
                        self.cache_hook.add_partial("generate_until", requests[row].args[:2], answers[row])
            return answers

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """(mean loss of the continuation, whether it is the greedy answer). The loss, not the likelihood that the harness's
            base class speaks of: its multiple choice takes the smallest, and its own models return losses. (In 0.7.3 such tasks
            fail with every model: the harness turns the pairs into text before it scores them.)"""
            found = []
            for request in requests:
                context, target, *where = request.args
                continuation = target if isinstance(target, str) else target(self._doc(where))
                found.append(self.vlm.continuation_loss(self._asked((context,), where), continuation))
            return found

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise UserError("a task of several rounds: runs answer one question at a time; choose another task")

        def _doc(self, where: Sequence[Any]) -> Mapping[str, Any]:
            _, doc_id, task, split = where
            return self.task_dict[task][split][doc_id]

        def _asked(self, args: Sequence[Any], where: Sequence[Any]) -> Parts:
            """Images, then the text, as the harness's simple models have them. `where`: (doc_to_visual, doc_id, task, split), or
            nothing."""
            text = args[0].replace("<image>", "")
            to_visual: Callable[[Any], Sequence[Any]] | None = where[0] if where else None
            images = to_visual(self._doc(where)) if to_visual is not None else []
            for image in images or []:
                if not isinstance(image, Image.Image):
                    raise UserError(f"{where[2]}: has a {type(image).__name__} as visual; runs see images alone")
            return (*(image.convert("RGB") for image in images or []), text)

    RFRun.__module__, RFRun.__qualname__ = __name__, "RFRun"
    return RFRun


def _limit(settings: Mapping[str, Any]) -> int:
    if settings.get("do_sample") or (settings.get("temperature") or 0) > 0 or (settings.get("num_beams") or 1) > 1:
        raise UserError(
            f"generation settings {dict(settings)}: answers are greedy; add --gen_kwargs do_sample=False,temperature=0"
        )
    return int(settings.get("max_new_tokens") or MAX_NEW_TOKENS)


def _cut(answer: str, until: str | Sequence[str] | None) -> str:
    for end in [until] if isinstance(until, str) else until or []:
        if end:
            answer = answer.split(end)[0]
    return answer


def _device(name: str) -> Any:
    from rf_repro.compute.devices import resolve_device

    device = resolve_device(name.partition(":")[0])
    if device.type != "cuda":
        return device
    import torch

    own = os.environ.get("LOCAL_RANK") if int(os.environ.get("WORLD_SIZE", "1")) > 1 else name.partition(":")[2]
    return torch.device("cuda", int(own or 0))
