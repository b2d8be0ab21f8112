"""Pretrained encoders that do not fit: what is refused, in one line."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rf_repro.core.errors import UserError
from rf_repro.model.pretrained_encoder import load_encoder_weights, read_encoder_weights
from tests.model.pretrained_encoders import build, config_of, loaded, save_encoders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("dinov3", {"width": 48, "ffn_width": 99}, r"model.encoder.width=48, ffn_width=99: must be 32, 48, as in .*config.json"),
        ("siglip2", {"num_layers": 4, "patch_size": 16}, r"model.encoder.num_layers=4, patch_size=16: must be 3, 4, as in"),
        ("dinov3", {"kind": "siglip2"}, r"is a 'dinov3_vit' model, must be siglip2 or siglip2_vision_model"),
        ("dinov3", {"kind": "vit3"}, r"model.encoder.kind='vit3': must be one of dinov3, siglip2, vit"),
    ],
)
def test_another_model_than_configured(kind: str, changes: dict[str, Any], message: str, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(replace(config_of(kind, folders[kind]), **changes))
    assert "\n" not in str(error.value)


def test_siglip2_of_one_resolution_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": {}}))
    with pytest.raises(UserError, match=r"is a 'siglip' model.*of SigLIP2's checkpoints the naflex ones are"):
        build(config_of("siglip2", tmp_path))


def test_weights_that_do_not_fit(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = build(config_of("dinov3", folders["dinov3"]))
    before = copy.deepcopy(encoder.state_dict())

    def refused(source: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            load_encoder_weights(encoder, str(source))
        assert "\n" not in str(error.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())

    refused(folders["dinov3 gated"], r"config.json has hidden_act='silu' \(not 'gelu'\), use_gated_mlp=True \(not False\)")
    refused(folders["siglip2"], r"is a 'siglip2_vision_model' model")
    refused(tmp_path / "nowhere", r"model.encoder.pretrained='.*nowhere': must be a folder that exists, or a hub id")
    names = ("norm.weight", "embeddings.cls_token")
    for change, message in {
        "lacks": r"missing: embeddings.cls_token, norm.weight",
        "adds": r"left over: more.weight",
        "reshapes": r"weights do not fit .*\(of another shape: norm.weight\)",
        "breaks": r"give a folder or hub id with safetensors",
        "pickles": r"has no .safetensors; pytorch_model.bin are pickles, which can run code and are never opened",
    }.items():
        folder = tmp_path / change
        shutil.copytree(folders["dinov3"], folder)
        file = folder / "model.safetensors"
        weights = load_file(file)
        if change == "lacks":
            save_file({name: tensor for name, tensor in weights.items() if name not in names}, file, {"format": "pt"})
        elif change == "adds":
            save_file({**weights, "more.weight": torch.ones(2)}, file, {"format": "pt"})
        elif change == "reshapes":
            save_file({**weights, "norm.weight": torch.ones(7)}, file, {"format": "pt"})
        elif change == "breaks":
            file.write_bytes(file.read_bytes()[:-100])
        else:
            file.unlink()
            torch.save(weights, folder / "pytorch_model.bin")
        refused(folder, message)


def test_weights_can_be_read_without_being_placed(folders: dict[str, Path]) -> None:
    with torch.device("meta"):
        encoder = build(config_of("siglip2", folders["siglip2"]))
    weights = read_encoder_weights(encoder, str(folders["siglip2"]))
    assert weights.keys() == encoder.state_dict().keys()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not any(tensor.is_meta for tensor in weights.values())


@pytest.mark.parametrize("size", [(16, 18), (0, 16), (7, 8)])
def test_sides_must_be_whole_patches(size: tuple[int, int], folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=rf"image of {size[0]}x{size[1]} pixels: sides must be multiples of 4"):
        loaded("dinov3", folders["dinov3"]).encode([torch.zeros(1, 3, *size)])


def test_without_transformers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # what an import then finds is as if it were not installed
    with pytest.raises(UserError, match=r"needs transformers .*pip install -e '\.\[hub\]'"):
        build(config_of("dinov3", "nowhere"))
