"""Block-diagonal attention against a dense mask over the whole pack: values and gradients, however the pack is stored."""

from itertools import accumulate, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.model.segments import Segments, segment_attention
from tests.model.small import largest_difference

H, D = 3, 8
PACKS = {
    "one": ([7],),
    "equal": ([4, 4, 4],),
    "ascending": ([2, 5, 9],),
    "mixed": ([6, 2, 6, 1, 9, 2],),
    "two blocks": ([5, 5, 5], [12, 4, 12]),
    "uneven blocks": ([1, 0, 3], [2, 5, 0], [4, 4, 1]),
    "with empty images": ([0, 3, 0, 5],),
}


def image_of_row(blocks: tuple[list[int], ...]) -> Tensor:
    """The image each stored row belongs to, written out."""
    return torch.tensor([image for block in blocks for image, length in enumerate(block) for _ in range(length)])


def dense(q: Tensor, k: Tensor, v: Tensor, images: Tensor) -> Tensor:
    allowed = images[:, None] == images[None]
    q, k, v = (tensor.transpose(0, 1) for tensor in (q, k, v))
    scores = (q @ k.transpose(1, 2)) * D**-0.5
    return (scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ v).transpose(0, 1)


def random_qkv(tokens: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(tokens, H, D, generator=generator).to(device, dtype) for _ in range(3)]
    return [part.requires_grad_() for part in parts]


@pytest.mark.parametrize("name", PACKS)
def test_equals_a_dense_mask_in_values_and_gradients(name: str) -> None:
    blocks = PACKS[name]
    images = image_of_row(blocks)
    segments = Segments.of(*blocks)
    ours, theirs = random_qkv(len(images), torch.float64), random_qkv(len(images), torch.float64)
    weight = torch.randn(len(images), H, D, generator=torch.Generator().manual_seed(1))
    out, expected = segment_attention(*ours, segments), dense(*theirs, images)
    assert segments.num_tokens == len(images)
    assert largest_difference(out, expected) < 1e-13
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert largest_difference(one.grad, other.grad) < 1e-13


@pytest.mark.parametrize("name", PACKS)
def test_segments_say_which_rows_are_an_image(name: str) -> None:
    blocks = PACKS[name]
    images = image_of_row(blocks)
    segments = Segments.of(*blocks)
    ordered = images if segments.rows is None else images[segments.rows]
    bounds = segments.bounds.tolist()
    assert segments.bounds.dtype == torch.int32
    assert bounds == list(accumulate(segments.lengths, initial=0))
    assert list(segments.lengths) == sorted(torch.bincount(images)[torch.bincount(images) > 0].tolist())
    for start, stop in pairwise(bounds):
        assert len(set(ordered[start:stop].tolist())) == 1  # each in one piece
    if segments.rows is not None:
        assert segments.inverse is not None
        assert torch.equal(segments.rows[segments.inverse], torch.arange(len(images)))
        for start, stop in pairwise(bounds):  # and its own tokens in their order
            assert segments.rows[start:stop].tolist() == sorted(segments.rows[start:stop].tolist())
    assert (segments.rows is None) == (name in ("one", "equal", "ascending", "with empty images"))


def test_one_call_for_all_images_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    attention = F.scaled_dot_product_attention

    def counted(q: Tensor, *rest: Tensor, **options: float | None) -> Tensor:
        shapes.append(tuple(q.shape))
        return attention(q, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    segment_attention(*random_qkv(26), Segments.of(*PACKS["mixed"]))
    assert shapes == [(1, H, 1, D), (2, H, 2, D), (2, H, 6, D), (1, H, 9, D)]


def test_a_pack_without_tokens_has_empty_values_and_gradients() -> None:
    q, k, v = random_qkv(0)
    out = segment_attention(q, k, v, Segments.of([], []))
    assert out.shape == (0, H, D)
    out.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.shape == (0, H, D) for tensor in (q, k, v))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["SDPA", "FlashAttention"])
@pytest.mark.parametrize("name", PACKS)
def test_cuda_equals_a_dense_mask(name: str, dtype: torch.dtype) -> None:
    blocks = PACKS[name]
    images = image_of_row(blocks).cuda()
    ours, theirs = random_qkv(len(images), dtype, "cuda"), random_qkv(len(images), torch.float32, "cuda")
    for tensor in theirs:
        tensor.data = tensor.data.to(dtype).float()
    out, expected = segment_attention(*ours, Segments.of(*blocks, device="cuda")), dense(*theirs, images)
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    assert out.dtype == dtype
    assert largest_difference(out.float(), expected) < tolerance
    weight = torch.randn(len(images), H, D, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    (out * weight).sum().backward()
    (expected * weight.float()).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert largest_difference(one.grad.float(), other.grad) < 2 * tolerance
