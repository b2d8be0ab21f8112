"""GenEval's colour classifier: CLIP ViT-L-14 with OpenAI's weights, through open_clip.

The weights were trained with the activation QuickGELU. Since open_clip 2.29 the name `ViT-L-14` means GELU whatever the weights,
with a warning that the official script suppresses, so published scores fall into two camps. Here the activation is a named
choice, and is verified on the modules that were built.

Source: GenEval's official script (djghosh13/geneval, af4902f) with the zero-shot protocol of clip-benchmark that it calls.

Legend: N crops, C = 10 colours in GenEval's order, D embedding dimensions.
"""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from evaluators.geneval.metadata import COLORS
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.core.install import extra_hint

CODE = 1  # raise it when the same crops can get other logits from the same weights
ARCHITECTURE = "ViT-L-14"
TAG = "openai"
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
LOGIT_SCALE = 100.0  # the protocol's, whatever the model learned
BATCH_SIZE = 64  # crops
VERSIONS = ("open-clip-torch", "torch", "torchvision", "pillow")  # what a result may depend on
# Files that a folder of weights may hold; the first of them counts.
WEIGHTS = ("ViT-L-14.pt", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
# What OpenAI's archives store beside the parameters.
_SIZES = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class Profile:
    """An activation under which GenEval scores were published."""

    name: str
    quick_gelu: bool

    @property
    def activation(self) -> str:
        return "QuickGELU" if self.quick_gelu else "GELU"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("geneval-2023", quick_gelu=True),  # as the weights were trained, and as GenEval's paper scored
        Profile("unpinned-2025", quick_gelu=False),  # what an installation without a pinned open_clip computes
    )
}


class ClipColorClassifier:
    """A `ColorClassifier`; build it by `load`.

    Args:
        model: open_clip's CLIP in float32 on its device, in evaluation mode.
        tokenizer: texts -> int64 [texts, context].
        transform: RGB image -> float32 [3, S, S], normalised.
        revision: tells weights, profile, precision and versions apart.
        weights_path: the file that the parameters are from.

    Raises:
        ValueError: the model's activation is not the profile's.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Callable[[list[str]], torch.Tensor],
        transform: Callable[[Image.Image], torch.Tensor],
        profile: Profile,
        *,
        name: str,
        revision: str,
        weights_path: Path,
    ) -> None:
        self._model, self._tokenizer, self._transform = model, tokenizer, transform
        self._device = next(model.parameters()).device
        self.profile, self.name, self.revision, self.weights_path = profile, name, revision, weights_path
        self._text_features: dict[str, torch.Tensor] = {}  # class name -> [D, C]
        if self.activation != profile.activation:
            raise ValueError(f"profile {profile.name} needs {profile.activation}, the model was built with {self.activation}")

    @property
    def activation(self) -> str:
        """`QuickGELU` or `GELU`, by what the blocks of both towers compute; else a text that says what is there."""
        blocks = [module for name, module in self._model.named_modules() if name.endswith(".mlp.gelu")]
        found = sorted({_activation(block) for block in blocks})
        return found[0] if len(found) == 1 else f"{len(blocks)} activations of kinds {found}"

    @torch.inference_mode()
    def logits(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> npt.NDArray[np.float32]:
        """100 x cosine similarity of each RGB crop with each colour of its class, float32 [N, C].

        On CUDA the model runs under float16 autocast, as in the official script, and the logits are rounded to it.

        Raises:
            ValueError: a crop without a pixel.
        """
        rows: list[torch.Tensor] = []
        pairs = list(zip(crops, class_names, strict=True))
        for start in range(0, len(pairs), BATCH_SIZE):
            batch = pairs[start : start + BATCH_SIZE]
            names = [name for _, name in batch]
            pixels = torch.stack([self._pixels(crop, name) for crop, name in batch]).to(self._device)
            with self._autocast():
                features_ND = F.normalize(self._model.encode_image(pixels), dim=-1)  # type: ignore[operator]
                logits = features_ND.new_empty(len(batch), len(COLORS))
                for name in dict.fromkeys(names):
                    chosen = [i for i, other in enumerate(names) if other == name]
                    logits[chosen] = (LOGIT_SCALE * features_ND[chosen] @ self._text(name)).to(logits.dtype)
            rows.append(logits.float().cpu())
        return torch.cat(rows).numpy() if rows else np.zeros((0, len(COLORS)), np.float32)

    def classify(self, crops: Sequence[Image.Image], class_names: Sequence[str]) -> list[str]:
        """The colour with the largest logit for each RGB crop; of equal ones the first in GenEval's order."""
        return [COLORS[i] for i in self.logits(crops, class_names).argmax(1)]

    def _pixels(self, crop: Image.Image, name: str) -> torch.Tensor:
        if 0 in crop.size:
            raise ValueError(f"a crop of class {name} is {crop.width} x {crop.height}: it has no pixel to classify")
        return self._transform(crop)

    def _text(self, name: str) -> torch.Tensor:
        """[D, C]: each colour's mean over the templates of unit text features, of unit length itself."""
        if name not in self._text_features:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            features = F.normalize(self._model.encode_text(self._tokenizer(texts).to(self._device)), dim=-1)  # type: ignore[operator]
            mean_CD = features.reshape(len(COLORS), len(TEMPLATES), -1).mean(1)
            self._text_features[name] = (mean_CD / mean_CD.norm(dim=-1, keepdim=True)).T
        return self._text_features[name]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.float16, enabled=_precision(self._device) != "float32")


def load(
    weights: str = TAG, *, profile: str = "geneval-2023", device: str = "cpu", architecture: str = ARCHITECTURE
) -> ClipColorClassifier:
    """The classifier with its weights.

    Args:
        weights: a file, a folder with one of `WEIGHTS`, or open_clip's name for weights of the architecture to download, whose
            digest open_clip checks.
        profile: one of `PROFILES`.
        device: torch's name for it. CUDA runs under float16 autocast, everything else in float32.
        architecture: open_clip's name for it.

    Raises:
        UserError: open_clip is not installed, an unknown profile, or weights that are missing or another model's.
    """
    if profile not in PROFILES:
        raise UserError(f"profile {profile!r}: unknown; choose one of {', '.join(PROFILES)}")
    open_clip = _open_clip()
    chosen = PROFILES[profile]
    path = _weights_path(open_clip, weights, architecture)
    model = build(architecture, chosen)
    _load_weights(open_clip, model, path, architecture)
    model = model.to(device).eval()
    precision = _precision(torch.device(device))
    versions = ", ".join(f"{package} {version(package)}" for package in VERSIONS)
    return ClipColorClassifier(
        model,
        open_clip.get_tokenizer(architecture),
        open_clip.image_transform(model.visual.image_size, is_train=False),  # bicubic to the shorter side, then the centre
        chosen,
        name=f"open_clip {architecture}",
        revision=f"code {CODE}, {profile} ({chosen.activation}), {precision}, weights sha256 {file_sha256(path)}, {versions}",
        weights_path=path,
    )


def build(architecture: str, profile: Profile) -> Any:
    """open_clip's CLIP with random weights and the profile's activation in both towers, whatever open_clip's default is."""
    open_clip = _open_clip()
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UserError(f"architecture {architecture!r}: open_clip knows none of this name")
    return open_clip.CLIP(**{**config, "quick_gelu": profile.quick_gelu})


def _open_clip() -> Any:
    try:
        return import_module("open_clip")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision's operators are built for another torch
        remedy = f"{extra_hint('geneval')}, with torch and torchvision of one build (both for CPU, or both for CUDA)"
        raise UserError(f"colours need open_clip, which cannot be imported ({error}); {remedy}") from None


def _precision(device: torch.device) -> str:
    return "float16 autocast" if device.type == "cuda" else "float32"


def _activation(module: torch.nn.Module) -> str:
    """Name of the function that a module computes, from its values: subclasses and settings may hide behind a type's name."""
    x = torch.linspace(-3, 3, 13)
    y = module(x)
    if torch.allclose(y, x * torch.sigmoid(1.702 * x), atol=1e-6):
        return "QuickGELU"
    return "GELU" if torch.allclose(y, F.gelu(x), atol=1e-6) else type(module).__name__


def _weights_path(open_clip: Any, weights: str, architecture: str) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        for name in WEIGHTS:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds none of {', '.join(WEIGHTS)}; name the file itself")
    if not open_clip.is_pretrained_cfg(architecture, weights):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise UserError(f"{weights}: neither a file or folder, nor a name that open_clip knows for {architecture}: {tags}")
    # From OpenAI's address rather than the hub: that file's full SHA-256 is known, and open_clip verifies it.
    source = open_clip.get_pretrained_cfg(architecture, weights)
    try:
        return Path(open_clip.download_pretrained(source, prefer_hf_hub=False))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{weights}: {architecture} cannot be downloaded ({error}); download {source['url']} elsewhere and name the file"
        ) from error


def _load_weights(open_clip: Any, model: torch.nn.Module, path: Path, architecture: str) -> None:
    """Loads every parameter by name and shape; open_clip's own loader would stretch another resolution's positions to fit."""
    try:
        if _is_torchscript(path):  # as OpenAI published them
            state = torch.jit.load(path, map_location="cpu").state_dict()
            state = {name: value for name, value in state.items() if name not in _SIZES}
        else:
            state = open_clip.factory.load_state_dict(str(path), weights_only=True)
        model.load_state_dict(state)
    except Exception as error:  # readers of four formats raise what they like on a damaged file
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{path}: not the weights of {architecture} ({reason}); give another file, or download it again"
        ) from error


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive. Both it and a pickled checkpoint are zip files; only it holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
