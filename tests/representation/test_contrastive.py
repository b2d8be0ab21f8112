"""The sigmoid loss against a plain double loop, equal captions as true pairs, and what the towers must and must not see."""

import math

import pytest
import torch
from torch import Tensor

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.contrastive import (
    INITIAL_BIAS,
    INITIAL_TEMPERATURE,
    ContrastiveModel,
    same_captions,
    sigmoid_loss,
)
from rf_repro.model.initialise import initialise
from tests.model.small import largest_difference

B, D, VOCAB, LENGTH = 6, 5, 23, 8


def unit(seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(B, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def double_loop(image: Tensor, text: Tensor, matches: Tensor, temperature: float, bias: float) -> float:
    """Every pair in float64, by the definition of the sigmoid."""
    total = 0.0
    for i in range(B):
        for j in range(B):
            logit = temperature * sum(float(a) * float(b) for a, b in zip(image[i], text[j], strict=True)) + bias
            sign = 1 if matches[i, j] else -1
            total -= math.log(1 / (1 + math.exp(-sign * logit)))
    return total / B


@pytest.mark.parametrize("temperature", [1.0, 10.0])
@pytest.mark.parametrize("bias", [-10.0, 0.5])
def test_sigmoid_loss_equals_the_plain_double_loop(temperature: float, bias: float) -> None:
    matches = torch.eye(B, dtype=torch.bool)
    matches[1, 4] = matches[4, 1] = True
    got = sigmoid_loss(unit(0), unit(1), matches, torch.tensor(temperature), torch.tensor(bias))
    assert float(got) == pytest.approx(double_loop(unit(0), unit(1), matches, temperature, bias), rel=1e-5)
    diagonal = torch.eye(B, dtype=torch.bool)
    assert float(got) != pytest.approx(double_loop(unit(0), unit(1), diagonal, temperature, bias), rel=1e-3)


def test_no_pair_is_normalised_by_another() -> None:
    """The loss is a sum over pairs: its parts, computed apart, add up to it."""
    image, text, matches = unit(2), unit(3), torch.eye(B, dtype=torch.bool)
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    parts = [
        float(sigmoid_loss(image[i : i + 1], text[j : j + 1], matches[i : i + 1, j : j + 1], scale, bias))
        for i in range(B)
        for j in range(B)
    ]
    assert sum(parts) / B == pytest.approx(float(sigmoid_loss(image, text, matches, scale, bias)), rel=1e-5)


def test_equal_captions_match_and_others_do_not() -> None:
    ids = torch.tensor([[1, 5, 6, 2], [1, 5, 7, 2], [1, 5, 6, 2], [1, 6, 5, 2]])
    expected = [[ids[i].tolist() == ids[j].tolist() for j in range(4)] for i in range(4)]
    assert same_captions(ids).tolist() == expected
    assert sum(map(sum, expected)) == 6


def model(seed: int = 0) -> ContrastiveModel:
    contrastive = ContrastiveModel(EncoderConfig(width=24, num_layers=1, num_heads=3, ffn_width=32), 24, VOCAB, LENGTH)
    initialise(contrastive, seed)
    return contrastive


def inputs(count: int = B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(count, 3, 24, 24, generator=generator) * 2 - 1
    return images, torch.randint(4, VOCAB, (count, LENGTH), generator=generator)


def test_embeddings_are_unit_vectors_of_each_sample_alone() -> None:
    contrastive = model()
    images, ids = inputs()
    image, text = contrastive(images, ids)
    assert largest_difference(image.norm(dim=1), torch.ones(B)) < 1e-6
    assert largest_difference(text.norm(dim=1), torch.ones(B)) < 1e-6
    for i in range(B):
        alone = contrastive(images[i : i + 1], ids[i : i + 1])
        assert largest_difference(alone[0], image[i : i + 1]) < 1e-5
        assert largest_difference(alone[1], text[i : i + 1]) < 1e-5
    swapped = ids.clone()
    swapped[:, [2, 5]] = swapped[:, [5, 2]]
    assert largest_difference(contrastive(images, swapped)[1], text) > 1e-3  # the order of the words counts


def test_the_model_starts_at_siglips_temperature_and_bias_and_counts_doubles_as_true() -> None:
    contrastive = model()
    with torch.no_grad():
        contrastive.log_temperature_offset.zero_()
        contrastive.bias_offset.zero_()
    images, ids = inputs()
    ids[3] = ids[0]
    image, text = contrastive(images, ids)
    matches = torch.eye(B, dtype=torch.bool)
    matches[0, 3] = matches[3, 0] = True
    expected = double_loop(image.detach(), text.detach(), matches, INITIAL_TEMPERATURE, INITIAL_BIAS)
    assert float(contrastive.loss(images, ids).detach()) == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        contrastive.log_temperature_offset += math.log(2)
        contrastive.bias_offset += 1.5
    expected = double_loop(image.detach(), text.detach(), matches, 2 * INITIAL_TEMPERATURE, INITIAL_BIAS + 1.5)
    assert float(contrastive.loss(images, ids).detach()) == pytest.approx(expected, rel=1e-4)


def test_everything_but_the_mask_token_learns() -> None:
    contrastive = model()
    contrastive.loss(*inputs()).backward()
    without = {name for name, parameter in contrastive.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert without == {"encoder.mask_token"}


def test_a_constant_image_tower_costs_what_the_prior_costs() -> None:
    """A collapsed encoder is visible: with the best bias its loss is B times the entropy of "is this pair true?"."""
    matches = torch.eye(B, dtype=torch.bool)
    constant = unit(0)[:1].expand(B, D)
    prior = 1 / B
    best = torch.tensor(math.log(prior / (1 - prior)))
    entropy = -prior * math.log(prior) - (1 - prior) * math.log(1 - prior)
    orthogonal = torch.zeros(B, D)
    assert float(sigmoid_loss(constant, orthogonal, matches, torch.tensor(10.0), best)) == pytest.approx(B * entropy, rel=1e-5)
    assert float(sigmoid_loss(constant, orthogonal, matches, torch.tensor(10.0), best + 0.5)) > B * entropy
