"""Random numbers by counting: each number is a function of a seed and its place alone, so that any part of it can be made
anywhere, by the device that uses it, with the same bits.

SplitMix64 (Steele, Lea and Flood, 2014), started from its own mix of the seed, tells 64 bits for each place. Sixteen bits choose
a quantile of the normal distribution from a table, and two such choices are added: their sum has far more values, and tails that
reach to 6. Integer products, a table's entries and a sum are the same on every device; logarithms and cosines are not.
"""

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
QUANTILES = 1 << 16


def normals(seeds_B: Tensor, *shape: int) -> Tensor:
    """Independent N(0, 1) of a shape for each seed, float32 [B, *shape], on the seeds' device.

    Args:
        seeds_B: int64 [B]; a sample's noise does not depend on the others'.
    """
    count = prod(shape)
    words = -(-count // 2)  # each makes two numbers
    choices = _words(seeds_B, words).view(torch.int16).int().add_(QUANTILES // 2)
    chosen = _quantiles(choices.device).index_select(0, choices.flatten()).view(-1, 2, 2 * words)
    return (chosen[:, 0] + chosen[:, 1])[:, :count].reshape(-1, *shape).to(seeds_B.device)


def uniforms(seeds_B: Tensor, *shape: int) -> Tensor:
    """As `normals`, but evenly in [0, 1), multiples of 2^-24."""
    words = _words(seeds_B, prod(shape))
    return (_shifted(words, 40).float() * 2.0**-24).view(-1, *shape).to(seeds_B.device)


def new_seeds(count: int, generator: torch.Generator) -> Tensor:
    """Seeds for these, int64 [count]."""
    return torch.randint(torch.iinfo(torch.int64).max, (count,), generator=generator)


def _words(seeds_B: Tensor, count: int) -> Tensor:
    """64 random bits each, int64 [B, count]; on the CPU where the seeds' device is not known to count as it does."""
    seeds = seeds_B if seeds_B.is_cuda else seeds_B.cpu()
    places = torch.arange(1, count + 1, device=seeds.device) * _signed(STEP)
    return _mix(places + _mix(seeds + _signed(STEP))[:, None])


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64 bits, in place."""
    for by, factor in ((30, FIRST), (27, SECOND)):
        bits.bitwise_xor_(_shifted(bits, by)).mul_(_signed(factor))
    return bits.bitwise_xor_(_shifted(bits, 31))


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right, filled with zeros."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


@lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> Tensor:
    """The middles of equally probable parts of N(0, 1/2), float32 [65536], scaled to a variance of a half."""
    middles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    values = torch.special.ndtri(middles)
    return (values * (0.5 / values.square().mean()).sqrt()).float().to(device)
