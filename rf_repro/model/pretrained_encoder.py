"""Encoders with published weights: the modules of `transformers`, images of any size and aspect ratio in one packed sequence
(NaViT, arXiv 2307.06304).

The modules, their names and weights are transformers' own; ours are how images become a packed sequence, and attention that
is block-diagonal. Paper: Sec. 4.1, App. A.

T tokens of the pack, P patches of an image, D width, p patch size in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_object
from rf_repro.core.hub import DOWNLOAD, find_model, loading, require_all_weights, require_safetensors
from rf_repro.core.install import extra_hint
from rf_repro.core.streams import quiet_transformers
from rf_repro.core.untrusted.problems import shown
from rf_repro.maths.layers import patchify
from rf_repro.model.segments import Segments, segment_attention

ATTENTION = "rf_repro_segments"  # our function's name among transformers' attention functions
SIZES = {"width": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
         "ffn_width": "intermediate_size", "patch_size": "patch_size"}  # fmt: skip
# The rest of what a forward depends on: a checkpoint must agree.
COMPUTATION = ("hidden_act", "layer_norm_eps", "rope_theta", "query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias",
               "use_gated_mlp", "num_register_tokens", "num_channels", "num_patches")  # fmt: skip
# What a SigLIP2 checkpoint holds beside the patches' encoder.
UNUSED_WEIGHTS = ("text_model.", "vision_model.head.", "head.", "logit_scale", "logit_bias")


class PretrainedEncoder(nn.Module, ABC):
    """An encoder of transformers, with random weights until `load_encoder_weights`.

    `model` is transformers' own, so names of weights are theirs after the prefix `model.`. There are no buffers: one built on the
    meta device is whole once its weights are.

    Args:
        config: `pretrained` is a folder with a config.json, which is then followed (a whole SigLIP2's or its vision part's);
            or a hub id, where the published models' settings and the sizes in `config` are taken and nothing is downloaded.

    Raises:
        UserError: transformers is missing, or the folder holds another model or other sizes than configured.
    """

    kind: ClassVar[str]  # in configs
    model_types: ClassVar[tuple[str, ...]]  # as a config.json names them

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_size, self.width = config.patch_size, config.width
        self.model = _build(type(self), config)
        mean, std = _pixel_statistics(type(self), config)
        # (pixel in [0, 1] - mean) / std, of a pixel in [-1, 1]
        self.pixel_scale = [0.5 / s for s in std]
        self.pixel_shift = [(0.5 - m) / s for m, s in zip(mean, std, strict=True)]

    # What a kind says

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The transformer's layers, first to last; each is called as a module and may be wrapped in place."""

    @property
    @abstractmethod
    def norm(self) -> nn.Module:
        """The final norm, for understanding: [..., D] -> [..., D]."""

    @classmethod
    @abstractmethod
    def make(cls, theirs: Any) -> Any:
        """transformers' model of its config."""

    @classmethod
    @abstractmethod
    def settings(cls, values: dict[str, Any]) -> Any:
        """transformers' config of the contents of a config.json."""

    @classmethod
    @abstractmethod
    def published(cls, config: EncoderConfig) -> dict[str, Any]:
        """A config.json from the sizes in `config` and what all published models of the kind have in common."""

    @classmethod
    @abstractmethod
    def pixel_statistics(cls, config: EncoderConfig) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation of the channels that the published models were trained with."""

    @abstractmethod
    def embed(
        self, patches: Tensor, shapes: list[tuple[int, int, int]], lengths: list[int]
    ) -> tuple[Tensor, Segments, dict[str, Any]]:
        """Tokens [T, D] of all images, of which the patches are the last; who attends to whom; what else layers take.

        Args:
            patches: normalised, of all images, float32 [patches, 3 p p].
            shapes: images of a size, their rows and columns of patches.
            lengths: patches of each image.
        """

    # What is common

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Patch features of the last layer before the final norm (paper Sec. 3.1).

        Args:
            images: each [B, 3, H, W] in [-1, 1], of its own size; H and W are multiples of the patch size.

        Returns:
            Of each, [B, P, D] in raster order and the weights' dtype, P = H/p * W/p; equal to what the model gives for that
            image alone, whatever else is in the pack. Where there are no images (all B are 0) the result is empty, all layers
            ran all the same (as sharded layers must, when other ranks have images), and gradients are zero.
        """
        return self(images)

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        if not images:
            return []
        p = self.patch_size
        for image in images:
            height, width = image.shape[-2:]
            if height % p or width % p or not height * width:
                raise UserError(f"image of {height}x{width} pixels: sides must be multiples of {p}, model.encoder.patch_size")
        shapes = [(len(image), image.shape[-2] // p, image.shape[-1] // p) for image in images]
        if not any(count for count, _, _ in shapes):  # a stand-in of one patch, whose features nobody sees
            stand_in = self._pack([images[0].new_zeros(1, 3, p, p)], [(1, 1, 1)])[:0]
            return [stand_in.view(0, rows * columns, self.width) for _, rows, columns in shapes]
        features_TD = self._pack(images, shapes)
        parts = features_TD.split([count * rows * columns for count, rows, columns in shapes])
        return [part.view(count, h * w, self.width) for part, (count, h, w) in zip(parts, shapes, strict=True)]

    def _pack(self, images: Sequence[Tensor], shapes: list[tuple[int, int, int]]) -> Tensor:
        """Features of all images' patches, one after the other."""
        patches = torch.cat([self._patches(image) for image in images])
        lengths = [rows * columns for count, rows, columns in shapes for _ in range(count)]
        x_TD, segments, extra = self.embed(patches, shapes, lengths)
        x_1TD = x_TD[None]
        for layer in self.layers:
            x_1TD = layer(x_1TD, attention_mask=segments, **extra)
        return x_1TD[0, len(x_TD) - len(patches) :]

    def _patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> normalised float32 [B*P, 3*p*p], channel by channel."""
        scale, shift = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.pixel_scale, self.pixel_shift))
        return patchify(images.float() * scale + shift, self.patch_size).flatten(0, 1)


def read_encoder_weights(encoder: PretrainedEncoder, source: str) -> dict[str, Tensor]:
    """The weights at `source`, float32 on the CPU, named as in `encoder.state_dict()`. Only safetensors are read, never pickles.

    Args:
        source: a folder or hub id of a model that transformers saved, of one file or sharded.

    Raises:
        UserError: nothing loadable is there, it is a model of another kind or setting, or weights are missing, left over or
            of other shapes; the line names them.
    """
    from transformers import PreTrainedConfig

    place = f"model.encoder.pretrained={source!r}"
    folder = find_model(source, place)
    require_safetensors(folder, place)
    with quiet_transformers(), loading(place, f"give a folder or hub id with safetensors of a {encoder.kind} model"):
        theirs = _model_config(type(encoder), PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0], place)
        _require_same(encoder.model.config, theirs, place)
        model, info = type(encoder.model).from_pretrained(
            folder, config=theirs, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
        )  # fmt: skip
    require_all_weights(info, place, unused=lambda name: name.startswith(UNUSED_WEIGHTS) and name in info["unexpected_keys"])
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def load_encoder_weights(encoder: PretrainedEncoder, source: str) -> None:
    """Fills an encoder, on its device and in its dtype, from a folder or hub id; strict. See `read_encoder_weights`."""
    if any(parameter.is_meta for parameter in encoder.parameters()):
        raise ValueError("the encoder is on the meta device: it has no storage to load into; call to_empty first")
    encoder.load_state_dict(read_encoder_weights(encoder, source))


def _build(cls: type[PretrainedEncoder], config: EncoderConfig) -> Any:
    """transformers' model of that config, with our attention."""
    try:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _packed_attention)
        return cls.make(_settings(cls, config))
    except ImportError as error:
        raise UserError(
            f"model.encoder.kind={config.kind!r}: needs transformers ({error}); install it with: {extra_hint('hub')}"
        ) from None


def _settings(cls: type[PretrainedEncoder], config: EncoderConfig) -> Any:
    """transformers' config of that config: as a local checkpoint says, else as published."""
    file = Path(config.pretrained) / "config.json"
    if config.pretrained and file.is_file():
        theirs = _model_config(cls, read_object(file, remedy=DOWNLOAD), f"model.encoder.pretrained={config.pretrained!r}")
        wrong = [name for name, key in SIZES.items() if getattr(config, name) != getattr(theirs, key)]
        if wrong:
            said = ", ".join(f"{name}={getattr(config, name)}" for name in wrong)
            right = ", ".join(str(getattr(theirs, SIZES[name])) for name in wrong)
            raise UserError(f"model.encoder.{said}: must be {right}, as in {file}")
    else:
        theirs = _model_config(cls, cls.published(config), "model.encoder")
    theirs._attn_implementation = ATTENTION
    return theirs


def _model_config(cls: type[PretrainedEncoder], values: dict[str, Any], place: str) -> Any:
    """transformers' config of the encoder, of the contents of a config.json."""
    model_type = values.get("model_type")
    if model_type not in cls.model_types:
        hint = "; of SigLIP2's checkpoints the naflex ones are" if model_type == "siglip" else ""
        raise UserError(f"{place}: is a {model_type!r} model, must be {' or '.join(cls.model_types)} for "
                        f"model.encoder.kind={cls.kind!r}{hint}")  # fmt: skip
    try:
        return cls.settings(values)
    except (UserError, ImportError):
        raise
    except Exception as error:  # transformers raises errors of many kinds on fields that are not what they should be
        raise UserError(
            f"{place}: its config.json is refused ({type(error).__name__}: {shown(error)}); download it again"
        ) from None


def _pixel_statistics(cls: type[PretrainedEncoder], config: EncoderConfig) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the channels: those beside a local checkpoint, else the published models'."""
    file = Path(config.pretrained) / "preprocessor_config.json"
    if config.pretrained and file.is_file():
        values = read_object(file, {"image_mean": list[float], "image_std": list[float]}, remedy=DOWNLOAD)
        if "image_mean" in values and "image_std" in values:
            return values["image_mean"], values["image_std"]
    return cls.pixel_statistics(config)


def _require_same(ours: Any, theirs: Any, place: str) -> None:
    names = [name for name in (*SIZES.values(), *COMPUTATION) if getattr(ours, name, None) != getattr(theirs, name, None)]
    if names:
        said = ", ".join(f"{name}={getattr(theirs, name)!r} (not {getattr(ours, name)!r})" for name in names)
        raise UserError(f"{place}: its config.json has {said}; give its folder, or sizes that are its own")


def _packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Segments, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface, [1, H, T, d] -> [1, T, H, d]. The layers pass on the mask as it is given to them,
    which is how `Segments` arrives here."""
    assert scaling == query.shape[-1] ** -0.5  # of both models
    q_THd, k_THd, v_THd = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return segment_attention(q_THd, k_THd, v_THd, attention_mask)[None], None
