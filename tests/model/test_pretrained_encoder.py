"""DINOv3 and SigLIP2 packed, against transformers' own forward of each image alone: features, gradients, loading."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from rf_repro.compute.ranks import Ranks
from rf_repro.config.model_schema import EncoderConfig
from rf_repro.config.scales import paper
from rf_repro.model.encoders import encoder_of
from rf_repro.model.pretrained_encoder import load_encoder_weights
from tests.model.pretrained_encoders import (
    BF16_TOLERANCE,
    IMAGENET,
    KINDS,
    SIZES,
    TOLERANCE,
    P,
    build,
    config_of,
    images_of,
    loaded,
    own_forward,
    save_encoders,
    theirs,
)
from tests.model.small import largest_difference
from tests.train.processes import run_ranks

transformers = pytest.importorskip("transformers")
SHARDED = KINDS[1:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_image_of_a_pack_is_as_transformers_sees_it_alone(kind: str, folders: dict[str, Path]) -> None:
    model, encoder, images = theirs(kind), loaded(kind, folders[kind]), images_of()
    for training in (False, True):  # nothing is drawn at random while it trains
        features = encoder.train(training).encode(images)
        for image, feature in zip(images, features, strict=True):
            for one, own in zip(image, feature, strict=True):
                before, after = own_forward(model, kind, one[None])
                assert own.shape == (one.shape[1] // P * (one.shape[2] // P), 32)
                assert largest_difference(own, before[0]) < TOLERANCE * float(before.abs().max())
                assert largest_difference(encoder.norm(own), after[0]) < TOLERANCE
    spread = torch.cat([feature.flatten(0, 1) for feature in features]).std(0)
    assert float(spread.min()) > 0.05  # the comparison has something to compare


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_transformers_own(kind: str, folders: dict[str, Path]) -> None:
    """Of weights and of pixels, through packs and through activation checkpointing of each layer."""
    model, encoder = theirs(kind), loaded(kind, folders[kind]).train()
    probe = [torch.randn(B, H // P * (W // P), 32, generator=torch.Generator().manual_seed(B + H)) for B, H, W in SIZES]
    images, same = [image.requires_grad_() for image in images_of()], [image.requires_grad_() for image in images_of()]
    total = torch.stack([(own_forward(model, kind, x)[0] * p).sum() for x, p in zip(same, probe, strict=True)]).sum()
    total.backward()
    theirs_by_name = {f"model.{name}": parameter.grad for name, parameter in model.named_parameters()}
    for checkpointed in (False, True):
        encoder.zero_grad()
        for image in images:
            image.grad = None
        if checkpointed:
            for layer in encoder.layers:
                forward = layer.forward
                layer.forward = lambda *a, f=forward, **k: checkpoint(f, *a, use_reentrant=False, **k)  # type: ignore[method-assign]
        torch.stack([(x * p).sum() for x, p in zip(encoder.encode(images), probe, strict=True)]).sum().backward()
        for name, parameter in encoder.named_parameters():
            expected = theirs_by_name[name]
            if expected is None:  # the final norm and the mask token have no part in these features
                assert parameter.grad is None
                assert ".norm." in name or "mask_token" in name or "post_layernorm" in name
                continue
            assert parameter.grad is not None
            scale = max(1.0, float(expected.abs().max()))  # that of a key's bias is zero but for rounding
            assert largest_difference(parameter.grad, expected) < TOLERANCE * scale, name
        for one, other in zip(images, same, strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert largest_difference(one.grad, other.grad) < TOLERANCE * float(other.grad.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bf16(kind: str, folders: dict[str, Path]) -> None:
    """No further from fp32 than transformers' own bf16 is."""
    exact, model, encoder = theirs(kind), theirs(kind).to(torch.bfloat16), loaded(kind, folders[kind]).to(torch.bfloat16)
    ours_off, theirs_off = [], []
    for image, feature in zip(images_of(), encoder.encode([image.bfloat16() for image in images_of()]), strict=True):
        assert feature.dtype == torch.bfloat16
        expected, _ = own_forward(exact, kind, image.bfloat16().float())
        own, _ = own_forward(model, kind, image.bfloat16().float())
        scale = expected.abs().max()
        ours_off.append((feature.float() - expected).abs().max() / scale)
        theirs_off.append((own.float() - expected).abs().max() / scale)
    assert float(max(ours_off)) < BF16_TOLERANCE
    assert float(max(ours_off)) < 1.5 * float(max(theirs_off))


@pytest.mark.parametrize("kind", KINDS)
def test_without_images_layers_run_and_gradients_are_zero(kind: str, folders: dict[str, Path]) -> None:
    encoder = loaded(kind, folders[kind])
    assert encoder.encode([]) == []
    ran: list[nn.Module] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda module, *_: ran.append(module))
    features = encoder.encode([torch.zeros(0, 3, 8, 16), torch.zeros(0, 3, 4, 4)])
    assert [tuple(feature.shape) for feature in features] == [(0, 8, 32), (0, 1, 32)]
    assert ran == list(encoder.layers)
    (features[0].sum() + encoder.norm(features[1]).sum()).backward()
    for name, parameter in encoder.named_parameters():
        if "mask_token" not in name:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name
    with_none = encoder.encode([*images_of(), torch.zeros(0, 3, 8, 16)])  # beside images of others
    assert with_none[-1].shape == (0, 8, 32)
    for one, other in zip(with_none, encoder.encode(images_of()), strict=False):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_copy_is_the_same_and_apart(kind: str, folders: dict[str, Path]) -> None:
    encoder = loaded(kind, folders[kind])
    average, images = copy.deepcopy(encoder), images_of()
    before = encoder.encode(images)
    assert all(torch.equal(one, other) for one, other in zip(before, average.encode(images), strict=True))
    for parameter in encoder.parameters():
        parameter.mul_(1.1)
    assert all(torch.equal(one, other) for one, other in zip(before, average.encode(images), strict=True))
    assert largest_difference(before[0], encoder.encode(images)[0]) > 0.01


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_one_built_on_the_meta_device_is_whole_once_filled(kind: str, folders: dict[str, Path]) -> None:
    with torch.device("meta"):
        encoder = build(config_of(kind, folders[kind]))
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert not list(encoder.buffers())
    with pytest.raises(ValueError, match="meta device"):
        load_encoder_weights(encoder, str(folders[kind]))
    encoder.to_empty(device="cpu")
    load_encoder_weights(encoder, str(folders[kind]))
    for one, other in zip(encoder.encode(images_of()), loaded(kind, folders[kind]).encode(images_of()), strict=True):
        assert torch.equal(one, other)


def test_names_and_weights_are_transformers_own(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        expected = theirs(kind).state_dict()
        own = loaded(kind, folders[kind]).state_dict()
        assert own.keys() == {f"model.{name}" for name in expected}
        assert all(torch.equal(own[f"model.{name}"], tensor) for name, tensor in expected.items())


def test_published_models_are_built_from_their_names_and_sizes_alone() -> None:
    """On the meta device: parameters as the estimate has them, settings as their model cards have them."""
    configs = [
        paper().model.encoder,
        EncoderConfig("dinov3", 768, 12, 12, 3072, 16, pretrained="facebook/dinov3-vitb16-pretrain-lvd1689m"),
        EncoderConfig("siglip2", 1152, 27, 16, 4304, 16, pretrained="google/siglip2-so400m-patch16-naflex"),
    ]
    with torch.device("meta"):
        encoders = [build(config) for config in configs]
    for config, encoder in zip(configs, encoders, strict=True):
        assert sum(parameter.numel() for parameter in encoder.parameters()) == encoder_of(config).size(config).total
        assert len(encoder.layers) == config.num_layers
    assert [encoder.model.config.hidden_act for encoder in encoders] == ["silu", "gelu", "gelu_pytorch_tanh"]
    satellite = replace(configs[0], pretrained="facebook/dinov3-vit7b16-pretrain-sat493m")
    with torch.device("meta"):
        largest = build(satellite)
    assert largest.layers[0].attention.q_proj.bias is None  # type: ignore[union-attr]
    assert largest.pixel_shift != encoders[0].pixel_shift


def test_a_whole_siglip2_gives_its_vision_part(folders: dict[str, Path], tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": P}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60}
    torch.manual_seed(0)
    config = transformers.Siglip2Config(text_config=text, vision_config={**vision, "num_patches": 25})
    whole = transformers.Siglip2Model(config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1  # sharded, as large ones are
    encoder = loaded("siglip2", tmp_path)
    for image, feature in zip(images_of(), encoder.encode(images_of()), strict=True):
        with torch.no_grad():
            before, _ = own_forward(whole.vision_model, "siglip2", image)
        assert largest_difference(feature, before) < TOLERANCE * float(before.abs().max())


@torch.no_grad()
def test_pixels_are_normalised_as_a_local_checkpoint_says(folders: dict[str, Path], tmp_path: Path) -> None:
    kind = "dinov3"
    shutil.copytree(folders[kind], tmp_path / "own")
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    images = images_of()[:1]
    moved = ((images[0] / 2 + 0.5) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    as_imagenet = (moved * IMAGENET[1].view(3, 1, 1) + IMAGENET[0].view(3, 1, 1)) * 2 - 1
    expected = loaded(kind, folders[kind]).encode([as_imagenet])[0]
    assert largest_difference(loaded(kind, tmp_path / "own").encode(images)[0], expected) < 2e-5 * float(expected.abs().max())


def sharded_step(ranks: Ranks, folders: dict[str, Path]) -> dict[str, tuple[list[Tensor], dict[str, Tensor]]]:
    """Of each kind, one rank's features and all ranks' mean gradients, each layer sharded; the last rank has no images."""
    found = {}
    mesh = torch.distributed.init_device_mesh("cpu", (ranks.size,))
    for kind in SHARDED:
        encoder = loaded(kind, folders[kind])
        for layer in encoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
        features = encoder.encode(images_of() if ranks.rank < ranks.size - 1 else [torch.zeros(0, 3, 8, 8)])
        torch.stack([feature.square().sum() for feature in features]).sum().backward()
        grads = {name: p.grad.full_tensor() for name, p in encoder.named_parameters() if p.grad is not None}  # type: ignore[attr-defined]
        found[kind] = ([feature.detach() for feature in features], grads)
    return found


@pytest.mark.dist
def test_sharded_layers_are_as_whole_ones_also_beside_a_rank_without_images(folders: dict[str, Path], tmp_path: Path) -> None:
    first, last = run_ranks(sharded_step, 2, tmp_path, folders)
    for kind in SHARDED:
        encoder = loaded(kind, folders[kind])
        expected = encoder.encode(images_of())
        torch.stack([feature.square().sum() for feature in expected]).sum().backward()
        (features, grads), (none, same) = first[kind], last[kind]
        assert all(torch.equal(one, other) for one, other in zip(features, expected, strict=True))
        assert [tuple(feature.shape) for feature in none] == [(0, 4, 32)]
        trained = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        assert trained
        assert grads.keys() == same.keys() >= trained.keys()
        for name, grad in trained.items():
            assert largest_difference(2 * grads[name], grad) < TOLERANCE * max(1.0, float(grad.abs().max())), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_is_as_transformers_on_the_cpu(kind: str, dtype: torch.dtype, folders: dict[str, Path]) -> None:
    model, encoder = theirs(kind), loaded(kind, folders[kind]).to("cuda", dtype)
    for image, feature in zip(images_of(), encoder.encode([image.cuda() for image in images_of()]), strict=True):
        with torch.no_grad():
            before, _ = own_forward(model, kind, image)
        tolerance = 5 * TOLERANCE if dtype == torch.float32 else BF16_TOLERANCE
        assert largest_difference(feature.float().cpu(), before) < tolerance * float(before.abs().max())
        feature.float().sum().backward(retain_graph=True)
    assert all(p.grad is not None for name, p in encoder.named_parameters() if "layer" in name and "layernorm" not in name)
