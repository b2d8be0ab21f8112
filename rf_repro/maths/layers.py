"""Small pieces shared by the decoder and the encoder: normalisation, rotary and 2D positions, time, patches."""

import math
from collections.abc import Callable
from functools import cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]  # (rows, columns) of cells over an image, raster order


class _RMSNorm(torch.autograd.Function):
    """Root-mean-square normalisation with its closed-form gradient: half the passes over memory of the composed one."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def]
        x32 = x.float()
        scale = torch.rsqrt(x32.square().mean(-1, keepdim=True).add_(eps))
        normed = x32.mul_(scale).to(x.dtype) if x.dtype != torch.float32 else x32 * scale
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        normed, weight, scale = ctx.saved_tensors
        grad_weight = (grad * normed).sum_to_size(weight.shape)
        grad_normed = grad * weight
        inner = (grad_normed * normed).mean(-1, keepdim=True)
        return torch.addcmul(grad_normed, normed, inner, value=-1).mul_(scale.to(grad.dtype)), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Qwen3's norm over the last dimension: statistics in float32, the weight applied in the input's dtype.

    Args:
        x: [..., dim].
        weight: [dim], or of more dimensions, the last ones of x.
    """
    # The library's: one kernel on CUDA and if compiled, fewer calls without gradients. It rounds once, Qwen3's code twice.
    if x.is_cuda or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        if weight.ndim == 1:
            return F.rms_norm(x, weight.shape, weight, eps)
        return F.rms_norm(x, x.shape[-1:], eps=eps) * weight
    return _RMSNorm.apply(x, weight, eps)


class RMSNorm(nn.Module):
    """`rms_norm` with a weight of its own. [..., dim] -> [..., dim]."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rope_tables(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rotary cosines and sines, each [T, 1, head_dim], in Qwen's half-split order, the first half of the sines negated."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.float()[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).to(dtype)[:, None], torch.cat([-sin, sin], -1).to(dtype)[:, None]


def fused_on_cuda(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiles a function of elementwise operations for CUDA, one kernel for sizes of all kinds; elsewhere, and within what is
    compiled already, it is as it is."""
    compiled = cache(lambda: torch.compile(function, dynamic=True))  # not before it is needed: the compiler loads for seconds

    @wraps(function)
    def either(first: Tensor, *rest: Tensor) -> Tensor:
        return (compiled() if first.is_cuda and not torch.compiler.is_compiling() else function)(first, *rest)

    return either


@fused_on_cuda
def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [T, 2 f], gate first -> [T, f]."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


@fused_on_cuda
def apply_rope(x_THd: Tensor, cos_THd: Tensor, sin_THd: Tensor) -> Tensor:
    """Rotates pairs (i, i + d/2) of every head, by `rope_tables`."""
    if torch.compiler.is_compiling():  # the compiler reads what is rolled number by number, half as fast
        (a, b), (cos_a, cos_b), (sin_a, sin_b) = (tensor.chunk(2, -1) for tensor in (x_THd, cos_THd, sin_THd))
        return torch.cat([torch.addcmul(a * cos_a, b, sin_a), torch.addcmul(b * cos_b, a, sin_b)], -1)
    return torch.addcmul(x_THd * cos_THd, x_THd.roll(x_THd.shape[-1] // 2, -1), sin_THd)


def sincos_2d(grid: int, dim: int, extent: float = 1.0) -> Tensor:
    """Fixed 2D sine-cosine position embeddings, float32 [grid*grid, dim], raster order, of cells that span a square of
    side `extent`: grids of different sizes over one extent share one coordinate system."""
    centres = (torch.arange(grid) + 0.5) * (extent / grid)
    frequencies = torch.exp(-math.log(100.0) * torch.arange(dim // 4) / (dim // 4))
    angles = centres[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows = axis[:, None].expand(grid, grid, dim // 2)
    columns = axis[None].expand(grid, grid, dim // 2)
    return torch.cat([rows, columns], -1).reshape(grid * grid, dim)


class TimeEmbedding(nn.Module):
    """Flow time t in [0, 1], float [B] -> [B, width], through sine-cosine features and an MLP."""

    NUM_FREQUENCIES = 32

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(self.NUM_FREQUENCIES, device=t.device) / self.NUM_FREQUENCIES
        angles = t.float()[:, None] * 100.0 * torch.exp(-math.log(1000.0) * steps)
        weight: Tensor = self.mlp[0].weight  # type: ignore[assignment]
        return self.mlp(torch.cat([angles.sin(), angles.cos()], 1).to(weight.dtype))


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] -> [B, P, C*p*p], patches in raster order."""
    B, C, H, W = images.shape
    p = patch_size
    patches = images.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // p) * (W // p), C * p * p)


def unpatchify(patches: Tensor, patch_size: int, channels: int = 3, grid: tuple[int, int] | None = None) -> Tensor:
    """The inverse of `patchify`. `grid`: rows and columns of patches; None: a square."""
    B, P, _ = patches.shape
    rows, columns = grid or (math.isqrt(P), math.isqrt(P))
    p = patch_size
    images = patches.reshape(B, rows, columns, channels, p, p).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(B, channels, rows * p, columns * p)


def pool_2x2(features: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Mean over 2x2 neighbourhoods: [B, 4N, D] -> [B, N, D]. Paper: Sec. 3.1.

    `grid`: rows and columns of what is pooled; None: a square.
    """
    B, P, D = features.shape
    rows, columns = grid or (math.isqrt(P), math.isqrt(P))
    return features.reshape(B, rows // 2, 2, columns // 2, 2, D).mean((2, 4)).reshape(B, P // 4, D)


def upper_left(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Of a table for the cells of a square, [S*S, D], the rows of a grid in its upper left corner, [rows*columns, D]: a cell has
    the same position embedding in images of all sizes (assumed, after BAGEL)."""
    side = math.isqrt(table.shape[0])
    if grid == (side, side):
        return table
    return table.view(side, side, -1)[: grid[0], : grid[1]].flatten(0, 1)
