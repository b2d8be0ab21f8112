"""mPLUG, the model behind DPG-Bench's published numbers: its network from modelscope, asked as modelscope's pipeline asks it.

The official script goes through that pipeline, whose module also imports speech and translation toolkits that hardly install any
more (ELLA#65). What it does with one image and one question is short: it is done here, and needs the network alone. The extra
`mplug` belongs in an environment of its own: modelscope's network runs on transformers 4, the rest of this project on 5.

Weights: damo/mplug_visual-question-answering_coco_large_en, Apache-2.0, which modelscope downloads; a copy on the Hugging Face
hub is diffusion-bench/mplug_visual-question-answering_coco_large_en, given as a folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from evaluators.vlm.protocol import Parts
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash, file_sha256
from rf_repro.core.install import extra_hint

WEIGHTS = "damo/mplug_visual-question-answering_coco_large_en"
SPEC = "mplug"  # `model="mplug"`, or `model="mplug:FOLDER"`
TASK = "visual-question-answering"
QUESTION_TOKENS = 25  # the pipeline cuts longer questions
# CLIP's, per channel, of values in [0, 1].
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KEPT = (".bin", ".yaml", ".json", ".txt")  # files that decide an answer


class MPlug:
    """A `VisionLanguageModel` that answers one question about one image; beam search as its configuration says.

    Args:
        network: modelscope's, on its device, in evaluation mode.
        tokenizer: of the questions.
        revision: tells weights and library apart.
    """

    def __init__(self, network: Any, tokenizer: Any, revision: str) -> None:
        self._network, self._tokenizer = network, tokenizer
        self.revision = revision
        self.settings: dict[str, Any] = {"decoding": "beam search of its configuration", "question_tokens": QUESTION_TOKENS}

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """Its text, unchanged. How long it may be is in the weights' configuration, not in `max_new_tokens`."""
        texts = []
        for parts in batch:
            image, question = parts
            assert isinstance(image, Image.Image)
            assert isinstance(question, str)
            texts.append(self._ask(image, question))
        return texts

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        """Raises UserError: the published numbers are of its words."""
        raise UserError("mPLUG: answers in words and gives no probabilities")

    def _ask(self, image: Image.Image, question: str) -> str:
        import torch

        device = next(self._network.parameters()).device
        words = self._tokenizer(
            question.lower(), padding="max_length", truncation=True, max_length=QUESTION_TOKENS, return_tensors="pt"
        )
        with torch.no_grad():
            ids, _ = self._network(pixels(image, self._network.config.image_res).to(device), words.to(device), train=False)
        text: str = self._network.tokenizer.decode(ids[0][0], skip_special_tokens=True)
        return text


def pixels(image: Image.Image, side: int) -> Any:
    """Float32 [1, 3, side, side]: resized without regard to its proportions, bicubic, and normalised as CLIP's."""
    import numpy as np
    import torch

    small = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, DEVIATION))
    return ((values - mean) / deviation)[None]


def load(weights: str = WEIGHTS, device: str = "cpu") -> MPlug:
    """The model with these weights: a folder, or a name at modelscope.

    Args:
        device: as torch names it.

    Raises:
        UserError: modelscope, a package that it needs, or the weights cannot be had, or a parameter is not among them.
    """
    remedy = f"`{extra_hint('mplug')}` in an environment of its own, or name another judge"
    try:
        import transformers

        if int(transformers.__version__.split(".")[0]) > 4:  # before modelscope, which would fail on it with other words
            raise UserError(
                f"model={SPEC!r}: needs transformers 4, here is {transformers.__version__}, as the extras hub, geneval and vlm "
                f"want it; {remedy}"
            )
        from modelscope import __version__ as version
        from modelscope.models.multi_modal.mplug import MPlug as Network
    except UserError:
        raise
    except Exception as error:  # modelscope's own imports fail in many ways beside other packages' versions
        raise UserError(f"model={SPEC!r}: modelscope cannot be loaded ({_first_line(error)}); {remedy}") from None
    folder = Path(weights)
    try:
        if not folder.is_dir():
            from modelscope import snapshot_download

            folder = Path(snapshot_download(weights))
        network = Network.from_pretrained(str(folder), task=TASK, load_checkpoint=False)
        _fill(network, folder / "pytorch_model.bin")
        tokenizer = transformers.BertTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # of the hub, YAML, torch: any kind
        raise UserError(f"model={SPEC!r}: {weights}: cannot be loaded ({_first_line(error)}); see docs/judges.md") from None
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.suffix in KEPT}
    return MPlug(network.to(device).eval(), tokenizer, f"mplug {content_hash(files)[:16]}, modelscope {version}")


def _fill(network: Any, path: Path) -> None:
    """Loads the checkpoint. modelscope itself passes over what is missing; a parameter left random would go unseen.

    Raises:
        UserError: a parameter that answers depend on is missing.
    """
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("model", "module"):
        state = state.get(name, state)
    named = {key.replace("model.", ""): value for key, value in state.items()}
    missing = network.load_state_dict(named, strict=False).missing_keys  # strict below, but for what training alone uses
    parameters = {name for name, _ in network.named_parameters()}
    # Moving averages, `visual_encoder_m` and the like, take part in training alone.
    lacking = [name for name in missing if name in parameters and not name.split(".")[0].endswith("_m")]
    if lacking:
        raise UserError(f"{path}: lacks {lacking[0]} and {len(lacking) - 1} others of mPLUG's parameters; get {WEIGHTS} again")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
