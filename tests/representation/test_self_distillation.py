"""Self-distillation against loops over its formulas: targets, losses, masks, views, and what collapse looks like."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model import self_distillation
from rf_repro.model.initialise import initialise
from rf_repro.model.self_distillation import (
    MASK_RATIO,
    NUM_PROTOTYPES,
    SINKHORN_ITERATIONS,
    STUDENT_TEMPERATURE,
    TEACHER_TEMPERATURE,
    SelfDistillationModel,
    Views,
    distillation_loss,
    draw_masks,
    draw_views,
    interpolate_features,
    neighbourhoods,
    patches_elsewhere,
    self_distillation_losses,
    sinkhorn_targets,
    stand_out,
)
from tests.model.small import largest_difference

N, K, SIZE, P = 12, 5, 24, 64


def logits(seed: int = 0, rows: int = N) -> Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(seed))


def looped_targets(scores: Tensor, temperature: float, iterations: int) -> list[list[float]]:
    """Columns, then rows, scaled to mass one, element by element in float64."""
    matrix = [[math.exp(value / temperature) for value in row] for row in scores.double().tolist()]
    for _ in range(iterations):
        for k in range(len(matrix[0])):
            total = sum(row[k] for row in matrix)
            for row in matrix:
                row[k] /= total
        for row in matrix:
            total = sum(row)
            row[:] = [value / total for value in row]
    return matrix


def looped_loss(scores: Tensor, targets: list[list[float]], temperature: float) -> float:
    total = 0.0
    for row, target in zip(scores.double().tolist(), targets, strict=True):
        normaliser = sum(math.exp(value / temperature) for value in row)
        total -= sum(t * math.log(math.exp(value / temperature) / normaliser) for value, t in zip(row, target, strict=True))
    return total / len(targets)


@pytest.mark.parametrize("iterations", [1, 3])
def test_targets_equal_the_loops_of_sinkhorn_knopp(iterations: int) -> None:
    got = sinkhorn_targets(logits(), 0.5, iterations)
    np.testing.assert_allclose(got.numpy(), looped_targets(logits(), 0.5, iterations), rtol=1e-4)
    assert largest_difference(got.sum(1), torch.ones(N)) < 1e-6
    assert largest_difference(got, (logits() / 0.5).softmax(1)) > 0.05  # centring does something


def test_all_prototypes_are_about_equally_in_demand_however_skewed_the_teacher() -> None:
    skewed = logits() + torch.tensor([5.0, 0, 0, 0, 0])
    assert float(skewed.softmax(1).mean(0).max()) > 0.9
    np.testing.assert_allclose(sinkhorn_targets(skewed, 1.0, 30).mean(0).numpy(), 1 / K, rtol=1e-3)


def test_no_temperature_overflows() -> None:
    sharp = sinkhorn_targets(logits(), 1e-4, 3)
    assert torch.isfinite(sharp).all()
    assert largest_difference(sharp.sum(1), torch.ones(N)) < 1e-5


def test_loss_equals_the_loop() -> None:
    targets = looped_targets(logits(1), 0.5, 3)
    got = distillation_loss(logits(), torch.tensor(targets), 0.2)
    assert float(got) == pytest.approx(looped_loss(logits(), targets, 0.2), rel=1e-5)


def model(seed: int = 0) -> SelfDistillationModel:
    built = SelfDistillationModel(EncoderConfig(width=24, num_layers=1, num_heads=3, ffn_width=32), SIZE)
    initialise(built, seed)
    return built


def views_and_masks(count: int = 4) -> tuple[Views, Views, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator) * 2 - 1
    return *draw_views(images, generator), draw_masks(count, P, generator)


def looped_place(own: Tensor, other: Tensor, patch: int) -> tuple[float, float]:
    """From a patch's centre to the image, and from there into the other view."""
    x, y = (patch % 8 + 0.5) / 4 - 1, (patch // 8 + 0.5) / 4 - 1
    a, b = own.double().tolist(), other.double().tolist()
    in_image = (a[0][0] * x + a[0][2], a[1][1] * y + a[1][2])
    return (in_image[0] - b[0][2]) / b[0][0], (in_image[1] - b[1][2]) / b[1][1]


def test_patches_are_found_again_in_the_other_view() -> None:
    own, other, _ = views_and_masks()
    where, shown = patches_elsewhere(own.places, other.places, 8)
    for view in range(4):
        for patch in range(P):
            x, y = looped_place(own.places[view], other.places[view], patch)
            assert where[view, patch].tolist() == pytest.approx([x, y], abs=1e-5)
            assert bool(shown[view, patch]) == (abs(x) <= 1 and abs(y) <= 1)
    assert 0.2 < float(shown.float().mean()) < 1


def test_the_same_spot_of_the_image_is_what_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels of the other view, read at the places found, are the pixels of this one."""
    still(monkeypatch, MAX_SHIFT=3.0, ZOOM=(1.0, 1.3))
    ramp = torch.arange(SIZE) / SIZE
    smooth = torch.stack([ramp[None].expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), ramp[:, None] * ramp[None]])
    own, other = draw_views(smooth.repeat(60, 1, 1, 1), torch.Generator().manual_seed(0))
    where, shown = patches_elsewhere(own.places, other.places, 8)
    again = interpolate_features(pool(other.images), where)
    centres = torch.tensor([[(p % 8 + 0.5) / 4 - 1, (p // 8 + 0.5) / 4 - 1] for p in range(P)])
    inside = shown & (where.abs() < 0.8).all(-1)
    for view in (own, other):  # what lies beyond the image's edge is no ramp
        scale, shift = view.places[:, :, :2].diagonal(dim1=1, dim2=2)[:, None], view.places[:, None, :, 2]
        inside &= ((centres * scale + shift).abs() < 0.8).all(-1) if view is own else (scale.abs() + shift.abs() < 1.15).all(-1)
    assert int(inside.sum()) > 100
    assert largest_difference(again[inside], pool(own.images)[inside]) < 0.03
    assert largest_difference(pool(other.images)[inside], pool(own.images)[inside]) > 0.3


def pool(views: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(views, 3).flatten(2).transpose(1, 2)


def test_features_between_patches_are_blends_of_their_neighbours() -> None:
    features = torch.randn(2, P, 5, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([[(p % 8 + 0.5) / 4 - 1, (p // 8 + 0.5) / 4 - 1] for p in range(P)]).expand(2, P, 2)
    assert largest_difference(interpolate_features(features, centres), features) < 1e-5
    between = centres[:, :7] + torch.tensor([0.125, 0.0])  # half a patch to the right
    assert largest_difference(interpolate_features(features, between), (features[:, :7] + features[:, 1:8]) / 2) < 1e-5


def looped_neighbourhoods(features: Tensor) -> Tensor:
    """The mean over each patch and its up to eight neighbours, less the mean over all; [P, D] -> [P, D]."""
    mean, rows = torch.stack([features[patch] for patch in range(P)]).sum(0) / P, []
    for patch in range(P):
        around = [other for other in range(P) if max(abs(patch % 8 - other % 8), abs(patch // 8 - other // 8)) <= 1]
        rows.append(torch.stack([features[other] for other in around]).sum(0) / len(around) - mean)
    return torch.stack(rows)


def test_neighbourhoods_equal_the_loop() -> None:
    features = torch.randn(2, P, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([looped_neighbourhoods(view) for view in features])
    assert largest_difference(neighbourhoods(features), expected) < 1e-5


def test_losses_are_the_student_of_one_masked_view_against_the_teacher_of_the_other_whole_one() -> None:
    student, teacher = model(0), model(1)
    own, other, masked = views_and_masks()
    losses = self_distillation_losses(student, teacher, own, other, masked)
    where, shown = patches_elsewhere(own.places, other.places, 8)
    whole = teacher.encoder.norm(teacher.encoder(other.images))
    hidden = student.encoder.norm(student.encoder(own.images, masked))

    says, seen = [], []
    for view in range(4):
        deviations = looped_neighbourhoods(whole[view])
        there = [interpolate_features(deviations[None], where[view, patch].view(1, 1, 2))[0, 0] for patch in range(P)]
        found = [patch for patch in range(P) if shown[view, patch]]
        around = looped_neighbourhoods(hidden[view])
        for patch in sorted(found, key=lambda patch: -float(there[patch].detach().norm()))[:16]:  # a quarter of 64
            seen.append(teacher.patch_head(there[patch]))
            says.append(student.patch_head(around[patch]))
    targets = looped_targets(torch.stack(seen), TEACHER_TEMPERATURE, SINKHORN_ITERATIONS)
    expected = looped_loss(torch.stack(says), targets, STUDENT_TEMPERATURE)
    assert float(losses["patch"].detach()) == pytest.approx(expected, rel=1e-3)

    targets = looped_targets(teacher.image_head(whole.mean(1)), TEACHER_TEMPERATURE, SINKHORN_ITERATIONS)
    expected = looped_loss(student.image_head(hidden.mean(1)), targets, STUDENT_TEMPERATURE)
    assert float(losses["image"].detach()) == pytest.approx(expected, rel=1e-3)


def test_what_is_hidden_reaches_the_teacher_alone() -> None:
    student, teacher = model(0), model(1)
    own, other, masked = views_and_masks()
    hide = masked.view(4, 1, 8, 8).repeat_interleave(3, 2).repeat_interleave(3, 3)
    changed = replace(own, images=torch.where(hide, -own.images, own.images))

    def patch_loss(first: Views, second: Views, mask: Tensor) -> float:
        return float(self_distillation_losses(student, teacher, first, second, mask)["patch"].detach())

    assert patch_loss(own, other, masked) == patch_loss(changed, other, masked)
    assert patch_loss(own, own, masked) != patch_loss(own, changed, masked)
    assert patch_loss(own, other, masked) != patch_loss(own, other, torch.zeros_like(masked))


def test_no_gradient_reaches_the_teacher_and_all_of_the_student_learns() -> None:
    student, teacher = model(0), model(1)
    losses = self_distillation_losses(student, teacher, *views_and_masks())
    (losses["image"] + losses["patch"]).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())


def test_collapse_is_visible_as_a_loss_of_log_k() -> None:
    """A student that says the same whatever it sees: bottlenecks that are zero."""
    collapsed = model(0)
    with torch.no_grad():
        for head in (collapsed.image_head, collapsed.patch_head):
            head.mlp[-1].weight.zero_()
    for teacher in (model(1), collapsed):  # the student alone, or both
        for loss in self_distillation_losses(collapsed, teacher, *views_and_masks()).values():
            assert float(loss.detach()) == pytest.approx(math.log(NUM_PROTOTYPES), rel=1e-5)


def test_masks_hide_each_patch_with_the_same_chance() -> None:
    masks = draw_masks(4000, P, torch.Generator().manual_seed(0))
    assert masks.shape == (4000, P)
    np.testing.assert_allclose(masks.float().mean(0).numpy(), MASK_RATIO, atol=0.04)
    again = draw_masks(4000, P, torch.Generator().manual_seed(0))
    assert torch.equal(masks, again)


def still(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Turns every augmentation but the flip off, then sets `changes`."""
    off = {"MAX_SHIFT": 0.0, "ZOOM": (1.0, 1.0), "BRIGHTNESS": (1.0, 1.0), "GREY_SHARE": 0.0, "NOISE": 0.0}
    for name, value in {**off, **changes}.items():
        monkeypatch.setattr(self_distillation, name, value)


def test_views_are_the_image_or_its_mirror_where_nothing_else_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch)
    images = views_and_masks(20)[0].images
    views = draw_views(images, torch.Generator().manual_seed(0))[0].images
    assert views.shape == (20, 3, SIZE, SIZE)
    mirrored = 0
    for index, view in enumerate(views):
        image = images[index]
        is_mirror = largest_difference(view, image.flip(-1)) < 1e-4
        assert is_mirror or largest_difference(view, image) < 1e-4
        mirrored += is_mirror
    assert 4 <= mirrored <= 16


def test_views_move_zoom_and_dim_by_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bright square on black: its place, its area and its light are what the constants allow."""
    images = torch.full((200, 3, SIZE, SIZE), -1.0)
    images[:, :, 9:15, 9:15] = 0.6
    centre = torch.arange(SIZE) + 0.5

    def of(**changes: object) -> tuple[Tensor, Tensor, Tensor]:
        still(monkeypatch, **changes)
        light = (draw_views(images, torch.Generator().manual_seed(0))[0].images[:, 0] + 1) / 2  # 0.8 in the square
        mass = light.sum((1, 2))
        column = (light.sum(1) * centre).sum(1) / mass
        return column - 12, mass / 0.8, light.amax((1, 2))

    offset, area, peak = of(MAX_SHIFT=3.0)
    assert float(offset.abs().max()) <= 3.01
    assert float(offset.max()) > 2.5
    assert float(offset.min()) < -2.5
    assert largest_difference(area, torch.full((200,), 36.0)) < 0.1
    offset, area, peak = of(ZOOM=(1.5, 1.5))
    assert largest_difference(area, torch.full((200,), 36 * 1.5**2)) < 3
    assert float(offset.abs().max()) < 1e-3
    offset, area, peak = of(BRIGHTNESS=(0.5, 0.9))
    assert 0.4 <= float(peak.min()) < 0.42
    assert 0.70 < float(peak.max()) <= 0.72


def test_both_views_of_some_images_are_grey_and_no_grey_tells_the_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch, GREY_SHARE=0.4)
    pixel = torch.tensor([0.8, -0.6, -1.0]).view(1, 3, 1, 1)
    own, other = draw_views(pixel.expand(500, 3, SIZE, SIZE), torch.Generator().manual_seed(0))

    def is_grey(view: Tensor) -> bool:
        assert largest_difference(view, view[:, :1, :1].expand_as(view)) < 1e-5  # one colour all over
        return largest_difference(view, view[:1].expand_as(view)) < 1e-6

    greys = [is_grey(view) for view in own.images]
    assert greys == [is_grey(view) for view in other.images]
    assert 160 < sum(greys) < 240
    for views in (own, other):
        for view, grey in zip(views.images, greys, strict=True):
            assert grey or largest_difference(view, pixel[0].expand_as(view)) < 1e-5
        levels = views.images[torch.tensor(greys), 0, 0, 0]
        assert float(levels.min()) >= -1
        assert float(levels.max()) <= 0.8  # an average of the channels
        assert float(levels.std()) > 0.2
    pairs = torch.stack([views.images[torch.tensor(greys), 0, 0, 0] for views in (own, other)])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.2


def test_the_patches_that_stand_out_are_the_largest_deviations_among_those_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    deviations, among = torch.randn(5, P, 7, generator=generator), torch.rand(5, P, generator=generator) < 0.6
    among[4] = False
    among[4, :3] = True  # fewer than a quarter are shown: all of them, and nothing else
    chosen = stand_out(deviations, among)
    for view in range(5):
        shown = [patch for patch in range(P) if among[view, patch]]
        largest = sorted(shown, key=lambda patch: -float(deviations[view, patch].norm()))[:16]
        assert chosen[view].nonzero().flatten().tolist() == sorted(largest)
