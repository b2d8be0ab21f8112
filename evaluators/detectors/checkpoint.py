"""Reading OpenMMLab's Mask2Former checkpoints, those of mmdet 2 (GenEval's own is one) and of mmdet 3.

The two generations differ in names alone. mmdet 3 loads a file of mmdet 2 with a warning in its log and without the weights
of its decoders: scores near 0. Here every file gets the names of mmdet 3, and whoever loads it must use all of them.
"""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256

_PUBLISHED = re.compile(r".*-([0-9a-f]{8})\.pth")  # OpenMMLab ends a file's name with the first digits of its SHA-256
_RENAMED = (
    (re.compile(r"(pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\."), r"\1.self_attn."),
    (re.compile(r"(transformer_decoder\.layers\.\d+)\.attentions\.0\."), r"\1.cross_attn."),  # Mask2Former attends there first
    (re.compile(r"(transformer_decoder\.layers\.\d+)\.attentions\.1\."), r"\1.self_attn."),
    (re.compile(r"(panoptic_head\..*layers\.\d+)\.ffns\.0\."), r"\1.ffn."),
)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """(weights under the names of mmdet 3, the file's SHA-256).

    Raises:
        UserError: no such file, not the file its name tells of, not a checkpoint, or one that holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give an OpenMMLab Mask2Former checkpoint (.pth)")
    sha256 = file_sha256(path)
    published = _PUBLISHED.fullmatch(path.name)
    if published and not sha256.startswith(published[1]):
        raise UserError(f"{path}: SHA-256 begins with {sha256[:8]}, its name says {published[1]}: damaged; download it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: no checkpoint of tensors and plain data, and other objects may run code when they are read; "
            "if you trust it, keep its weights alone: python -c \"import torch; torch.save({'state_dict': "
            f"torch.load('{path}', weights_only=False)['state_dict']}}, 'weights.pth')\""
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a PyTorch checkpoint ({str(error).splitlines()[0]}); download it again") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state_dict; give an OpenMMLab Mask2Former checkpoint (.pth)")
    return {_current_name(name): value for name, value in state.items()}, sha256


def _current_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
