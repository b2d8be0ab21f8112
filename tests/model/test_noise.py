"""Noise by counting, against SplitMix64 as its authors give it, the normal distribution, and other devices."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from rf_repro.maths.noise import new_seeds, normals, uniforms

MASK = (1 << 64) - 1


def splitmix64(state: int):  # type: ignore[no-untyped-def]
    """The generator of Steele, Lea and Flood, in whole numbers."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def words(seed: int, count: int) -> list[int]:
    """Of the generator that starts from the first word of the generator that starts from the seed."""
    stream = splitmix64(next(splitmix64(seed)))
    return [next(stream) for _ in range(count)]


def test_the_generator_is_the_published_one() -> None:
    first = splitmix64(1234567)  # the vector of its reference implementation
    assert [next(first) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_uniforms_are_the_upper_bits_of_its_words(seed: int) -> None:
    expected = [word >> 40 for word in words(seed, 12)]
    assert (uniforms(torch.tensor([seed]), 3, 4) * 2**24).long().flatten().tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_normals_are_two_quantiles_that_its_words_choose(count: int) -> None:
    seed, num = 987654321, -(-count // 2)
    variance = np.mean([NormalDist().inv_cdf((i + 0.5) / 65536) ** 2 for i in range(65536)])

    def quantile(bits: int) -> float:
        return NormalDist().inv_cdf(((bits + 32768) % 65536 + 0.5) / 65536) / math.sqrt(2 * variance)

    parts = [word >> shift & 0xFFFF for word in words(seed, num) for shift in (0, 16, 32, 48)]
    expected = [quantile(parts[i]) + quantile(parts[2 * num + i]) for i in range(count)]
    assert normals(torch.tensor([seed]), count)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_sample_has_its_own_noise_whatever_it_is_drawn_with() -> None:
    seeds = new_seeds(5, torch.Generator().manual_seed(3))
    for draw in (normals, uniforms):
        together = draw(seeds, 6, 7)
        assert together.shape == (5, 6, 7)
        assert torch.equal(together[2:4], draw(seeds[2:4], 6, 7))
        assert torch.equal(together, torch.stack([draw(seed[None], 6, 7)[0] for seed in seeds]))
    assert normals(seeds[:0], 2, 3).shape == (0, 2, 3)


def test_they_are_normal_and_independent() -> None:
    # Seeds one after another, as they might be given by hand: the worst case for a generator of streams.
    x = normals(torch.arange(1000), 1000).double()
    count = x.numel()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # spread: variance of the power
        assert abs(float((x**power).mean()) - moment) < 5 * math.sqrt(spread / count)
    ordered = x.flatten().sort().values
    below = torch.special.ndtr(ordered)
    assert float((below - torch.arange(1, count + 1) / count).abs().max()) < 1.95 / math.sqrt(count)  # Kolmogorov, .001
    assert 4.4 < float(x.abs().max()) < 6.1
    for first, second in ((x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[:, :500], x[:, 500:]), (x[:, ::2], x[:, 1::2])):
        for power in (1, 2):
            a, b = (part**power - (power - 1) for part in (first, second))
            assert abs(float((a * b).mean())) < 5 * 2 ** (power - 1) / math.sqrt(first.numel())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_makes_the_same_bits() -> None:
    seeds = new_seeds(4, torch.Generator().manual_seed(5))
    for draw in (normals, uniforms):
        assert torch.equal(draw(seeds.cuda(), 33, 3).cpu(), draw(seeds, 33, 3))
