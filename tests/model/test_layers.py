"""Norm, rotary positions, patches, pooling and 2D positions against other ways of computing them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.maths.layers import RMSNorm, TimeEmbedding, apply_rope, patchify, pool_2x2, rope_tables, sincos_2d, unpatchify
from rf_repro.model.encoder import EncoderBlock, MaskedImageHead, VisionTransformer
from rf_repro.model.initialise import initialise
from rf_repro.model.pixel_tokens import PixelTokens
from rf_repro.representation.discrete import DiscreteTokens
from tests.model.small import largest_difference


def norm_and_gradients(x: Tensor, weight: Tensor, grad: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients by torch's own norm."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = F.rms_norm(x, x.shape[-1:], weight, eps)
    out.backward(grad)
    assert x.grad is not None
    assert weight.grad is not None
    return out.detach(), x.grad, weight.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("eps", [1e-6, 0.3])  # the large one shows where it is added
@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12)])
def test_rms_norm_equals_torch_with_both_gradients(
    dtype: torch.dtype, tolerance: float, eps: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    x, grad, weight = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), torch.randn(12).to(dtype)
    oracle = norm_and_gradients(x.double(), weight.double(), grad.double(), eps)
    norm = RMSNorm(12, eps).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(weight)
    x.requires_grad_()
    out = norm(x)
    out.backward(grad)
    for own, expected in zip((out, x.grad, norm.weight.grad), oracle, strict=True):
        assert own is not None
        assert own.dtype == dtype
        assert largest_difference(own, expected) < tolerance * max(1.0, float(expected.abs().max()))


def test_rms_norm_leaves_its_input_as_it_was() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(4, 8).to(dtype)
        kept = x.clone()
        RMSNorm(8, 1e-6).to(dtype)(x)
        assert torch.equal(x, kept)


def test_rope_is_a_complex_rotation_of_pairs_half_a_head_apart() -> None:
    torch.manual_seed(0)
    T, heads, d, theta = 5, 3, 8, 50.0
    positions = torch.tensor([0, 1, 4, 4, 17])
    x = torch.randn(T, heads, d)
    cos, sin = rope_tables(positions, d, theta, torch.float32)
    out = apply_rope(x, cos, sin)
    pairs = torch.complex(x[..., : d // 2].double(), x[..., d // 2 :].double())
    for row, position in enumerate(positions.tolist()):
        for pair in range(d // 2):
            angle = position * theta ** (-2 * pair / d)
            rotated = pairs[row, :, pair] * complex(math.cos(angle), math.sin(angle))
            assert largest_difference(out[row, :, pair], rotated.real) < 2e-6
            assert largest_difference(out[row, :, pair + d // 2], rotated.imag) < 2e-6


def test_patchify_is_raster_order_and_is_undone() -> None:
    images = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    patches = patchify(images, 4)
    assert patches.shape == (2, 4, 48)
    for b in range(2):
        for n, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            expected = [float(images[b, c, row + y, column + x]) for c in range(3) for y in range(4) for x in range(4)]
            assert patches[b, n].tolist() == expected
    assert torch.equal(unpatchify(patches, 4), images)
    wide = torch.randn(1, 3, 8, 12)  # understanding images need not be square
    assert torch.equal(patchify(wide, 4)[0, 4], wide[0, :, 4:8, 4:8].flatten())


def test_a_representation_token_covers_the_pixel_patches_of_its_place() -> None:
    """A gradient image whose pixel is its coordinate: each pooled token's mean is that of the four patches it stands for."""
    side, patch = 24, 3
    y, x = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    image = torch.stack([y, x, y * side + x])[None]
    features = patchify(image, patch).view(1, 64, 3, patch * patch).mean(-1)  # of each patch: mean y, mean x, mean place
    pooled = pool_2x2(features)
    assert pooled.shape == (1, 16, 3)
    for n in range(16):
        top, left = (n // 4) * 2 * patch, (n % 4) * 2 * patch
        block = image[0, :, top : top + 2 * patch, left : left + 2 * patch]
        assert pooled[0, n].tolist() == pytest.approx(block.mean((1, 2)).tolist())


def test_grids_of_different_size_share_one_coordinate_system() -> None:
    coarse, fine = sincos_2d(2, 16, extent=6), sincos_2d(6, 16, extent=6)
    for n in range(4):  # the middle cell of a 3x3 block of fine cells has the coarse cell's centre
        y, x = 3 * (n // 2) + 1, 3 * (n % 2) + 1
        assert largest_difference(coarse[n], fine[6 * y + x]) < 1e-6
    assert largest_difference(sincos_2d(2, 16), fine[torch.tensor([7, 10, 25, 28])]) > 0.1  # another extent is another system
    representation = DiscreteTokens(16, 8, grid=2, extent=6, norm_eps=1e-6)
    pixels = PixelTokens(16, 12, grid=6, additive_time=False, norm_eps=1e-6)
    assert largest_difference(representation.position, coarse) == largest_difference(pixels.position, fine) == 0


def test_2d_positions_say_row_then_column() -> None:
    table = sincos_2d(5, 16, extent=5).view(5, 5, 2, 2, 4)  # row, column, axis, (sine, cosine), frequency
    for row in range(5):
        for column in range(5):
            for axis, place in enumerate((row + 0.5, column + 0.5)):
                for k in range(4):
                    angle = place * 100 ** (-k / 4)
                    assert table[row, column, axis, :, k].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-5)


def test_representation_tokens_are_position_plus_identity_after_a_start_token() -> None:
    torch.manual_seed(0)
    tokens = DiscreteTokens(16, 8, grid=2, extent=6, norm_eps=1e-6)
    with torch.no_grad():
        tokens.start.normal_()
        tokens.mask.normal_()
    codes = torch.tensor([[5, 0, 7, 7], [1, 1, 2, 3]])
    out = tokens.embed(codes, torch.tensor([False, True]))
    for b in range(2):
        assert torch.equal(out[b, 0], tokens.start)
        for n in range(4):
            identity = tokens.mask if b == 1 else tokens.identity.weight[codes[b, n]]
            assert torch.equal(out[b, 1 + n], identity + tokens.position[n])
    assert torch.equal(tokens.embed(codes[:, :2]), tokens.embed(codes)[:, :3])  # a beginning of the sequence


@torch.no_grad()
def test_time_embedding_tells_times_apart() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(16)
    t = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0])
    features = embed(t)
    distances = torch.cdist(features, features) + torch.eye(5)
    assert float(distances.min()) > 1e-2
    assert largest_difference(embed(t[2:3]), features[2:3]) < 1e-6


ENCODER = EncoderConfig(width=24, num_layers=2, num_heads=3, ffn_width=32, patch_size=3)


@pytest.fixture
def encoder() -> VisionTransformer:
    model = VisionTransformer(ENCODER, 12)
    initialise(model, 0)
    return model.eval()


@torch.no_grad()
def test_encoder_block_equals_fused_attention(encoder: VisionTransformer) -> None:
    block = encoder.blocks[0]
    assert isinstance(block, EncoderBlock)
    x = torch.randn(2, 16, 24)
    q, k, v = (block.attention_norm(x) @ block.qkv.weight.T + block.qkv.bias).chunk(3, -1)
    q, k, v = (part.view(2, 16, 3, 8).transpose(1, 2) for part in (q, k, v))
    middle = x + block.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert largest_difference(block(x), middle + block.ffn(block.ffn_norm(middle))) < 1e-5


@torch.no_grad()
def test_encoder_features_are_those_before_the_final_norm(encoder: VisionTransformer) -> None:
    images = torch.randn(2, 3, 12, 12)
    before = encoder(images), encoder.pooled(images)
    encoder.norm.weight.mul_(7)
    assert torch.equal(encoder(images), before[0])
    assert torch.equal(encoder.pooled(images), before[1])
    assert torch.equal(before[1], pool_2x2(before[0]))


@torch.no_grad()
def test_masked_patches_are_hidden_from_the_encoder_and_alone_in_the_loss(encoder: VisionTransformer) -> None:
    head = MaskedImageHead(ENCODER)
    initialise(head, 0)
    images = torch.randn(1, 3, 12, 12)
    masked = torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 5] = masked[0, 6] = True
    patches = patchify(images, 3)
    patches[0, 5] += 1
    other = unpatchify(patches, 3)
    assert torch.equal(encoder(images, masked), encoder(other, masked))
    predicted = head.out(head.block(head.norm(encoder(images, masked))))
    total, count = head(encoder, images, masked)
    assert int(count) == 2 * 27
    errors = sum(((predicted[0, n] - patchify(images, 3)[0, n]) ** 2).sum() for n in (5, 6))
    assert float(total) == pytest.approx(float(errors), rel=1e-5)
    patches[0, 5] -= 1
    patches[0, 9] += 1  # a visible patch changes features
    assert largest_difference(encoder(unpatchify(patches, 3), masked), encoder(images, masked)) > 1e-3
