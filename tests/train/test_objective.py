"""L = L_LM + L_FM + L_Rep: which tokens carry which term, and terms that add up over parts of a batch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.training_schema import MixtureConfig, ObjectiveConfig, StageConfig
from rf_repro.data.packing import PackedBatch, SampleGroup
from rf_repro.maths.flow import interpolate, sample_times
from rf_repro.maths.layers import patchify
from rf_repro.maths.noise import new_seeds, normals
from rf_repro.model import rf_model
from rf_repro.model.inputs import GenerationInput, UnderstandingInput
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.representation.continuous import ContinuousTokens
from rf_repro.train.objective import draw_pack, pack_losses, term_names, weights
from tests.model.small import TOKENS, VOCAB, largest_difference, run, small_config, small_model

ALL, NONE = 1 - 1e-9, 0.0  # drop probabilities
KEPT = ObjectiveConfig(text_drop=NONE, representation_drop=NONE)
LENGTH = 7


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def texts(lengths: list[int], seed: int) -> Tensor:
    """Rows of bos, `length` words, eos and pads."""
    ids = torch.full((len(lengths), LENGTH), TOKENS.pad)
    words = torch.randint(4, VOCAB, ids.shape, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        ids[row, 0] = TOKENS.bos
        ids[row, 1 : 1 + length] = words[row, :length]
        ids[row, 1 + length] = 2
    return ids


def batch_of(generation: int = 3, understanding: int = 2) -> PackedBatch:
    captions, answers = texts([3, 5, 2][:generation], 0), texts([4, 1][:understanding], 1)
    return PackedBatch(
        (SampleGroup(images(generation, 2), captions),) if generation else (),
        (SampleGroup(images(understanding, 3), answers),) if understanding else (),
    )


CODES = [torch.randint(16, (3, 16), generator=torch.Generator().manual_seed(4))]


Terms = dict[str, tuple[Tensor, int]]


def losses(model: RFModel, batch: PackedBatch, objective: ObjectiveConfig, codes: list[Tensor] | None = CODES) -> Terms:
    """(sum, count) of every term."""
    generator = torch.Generator().manual_seed(9)
    drawn = draw_pack(model, PixelSpace(4), batch, codes, objective, TOKENS, generator)
    sums = pack_losses(model, drawn, objective, generator)
    return {name: (sums[name], count) for name, count in drawn.counts.items()}


def present(terms: Terms) -> set[str]:
    """What has a count; the router's always has."""
    assert all(float(total) == 0 for total, count in terms.values() if not count)
    return {name for name, (_, count) in terms.items() if count} - {"router"}


@pytest.fixture(scope="module")
def model() -> RFModel:
    return small_model()


@torch.no_grad()
def test_every_term_equals_its_formula_on_what_the_model_says(model: RFModel) -> None:
    """The generator is read in the order times, noise, text drop, representation drop, as one step's draws."""
    batch, objective = batch_of(), ObjectiveConfig(text_drop=0.5, representation_drop=0.5)
    group, question = batch.generation[0], batch.understanding[0]
    generator = torch.Generator().manual_seed(9)
    clean = patchify(group.images, 4)
    t = sample_times(3, objective, generator)
    noise = normals(new_seeds(3, generator), 36, 48)
    no_text, no_codes = torch.rand(3, generator=generator) < 0.5, torch.rand(3, generator=generator) < 0.5
    assert 0 < int(no_text.sum()) < 3
    assert 0 < int(no_codes.sum()) < 3
    assert no_text.tolist() != no_codes.tolist()
    ids = group.text_ids.clone()
    ids[no_text] = torch.tensor([TOKENS.bos] + [TOKENS.null] * (LENGTH - 1))
    z = interpolate(clean, noise, t)
    ((output,), _) = run(model, [GenerationInput(ids, z, t, CODES[0], no_codes)], [])
    _, (answer,) = run(model, [], [question])

    terms = losses(model, batch, objective)
    assert present(terms) == {"flow", "representation", "text"}
    error = (output.clean - clean) / (1 - t).clamp(min=0.05)[:, None, None]
    assert float(terms["flow"][0]) == pytest.approx(float(error.square().sum()), rel=1e-5)
    assert int(terms["flow"][1]) == 3 * 36 * 48
    log_p = F.log_softmax(output.representation, -1)
    expected = -sum(log_p[b, n, CODES[0][b, n]] for b in range(3) if not no_codes[b] for n in range(16))
    assert float(terms["representation"][0]) == pytest.approx(float(expected), rel=1e-5)
    assert int(terms["representation"][1]) == 16 * int((~no_codes).sum())
    log_p = F.log_softmax(answer, -1)
    spoken = [(b, n) for b, length in enumerate([4, 1]) for n in range(1, length + 2)]  # words and eos; no bos, no pad
    expected = -sum(log_p[b, n - 1, question.text_ids[b, n]] for b, n in spoken)
    assert float(terms["text"][0]) == pytest.approx(float(expected), rel=1e-5)
    assert int(terms["text"][1]) == len(spoken)


@torch.no_grad()
def test_dropped_representations_carry_no_loss(model: RFModel) -> None:
    terms = losses(model, batch_of(), replace(KEPT, representation_drop=ALL))
    assert int(terms["representation"][1]) == 0
    assert float(terms["representation"][0]) == 0
    means = [total / max(int(count), 1) for total, count in terms.values()]
    assert all(torch.isfinite(mean) for mean in means)
    assert int(losses(model, batch_of(), KEPT)["representation"][1]) == 3 * 16


@torch.no_grad()
def test_dropped_texts_keep_their_representation_loss(model: RFModel) -> None:
    kept, dropped = (losses(model, batch_of(), replace(KEPT, text_drop=p)) for p in (NONE, ALL))
    assert int(dropped["representation"][1]) == int(kept["representation"][1]) == 3 * 16
    assert float(dropped["representation"][0]) != float(kept["representation"][0])  # but the words are gone from the context


@torch.no_grad()
def test_captions_carry_text_loss_only_where_asked(model: RFModel) -> None:
    without = losses(model, batch_of(understanding=0), KEPT)
    assert present(without) == {"flow", "representation"}
    spoken = losses(model, batch_of(understanding=0), replace(KEPT, caption_loss=True))
    assert int(spoken["text"][1]) == (3 + 1) + (5 + 1) + (2 + 1)  # words and eos, without pads
    silent = losses(model, batch_of(understanding=0), replace(KEPT, caption_loss=True, text_drop=ALL))
    assert int(silent["text"][1]) == 0
    assert float(silent["text"][0]) == 0
    both = losses(model, batch_of(), replace(KEPT, caption_loss=True))
    alone = losses(model, batch_of(), KEPT)
    assert float(both["text"][0]) == pytest.approx(float(spoken["text"][0] + alone["text"][0]), rel=1e-5)


@torch.no_grad()
def test_pads_carry_no_loss_and_words_before_them_do(model: RFModel) -> None:
    batch = batch_of(generation=0)
    longer = replace(batch.understanding[0], text_ids=F.pad(batch.understanding[0].text_ids, (0, 3), value=TOKENS.pad))
    first, second = losses(model, batch, KEPT, None), losses(model, PackedBatch(understanding=(longer,)), KEPT, None)
    assert int(first["text"][1]) == int(second["text"][1]) == 5 + 2
    assert float(first["text"][0]) == pytest.approx(float(second["text"][0]), rel=1e-5)


@torch.no_grad()
def test_without_rf_there_is_no_representation_term() -> None:
    pixel = small_model(small_config(representation__kind="none"))
    assert present(losses(pixel, batch_of(), ObjectiveConfig(), None)) == {"flow", "text"}


def test_a_perfect_x_has_no_flow_loss_through_the_whole_model(model: RFModel) -> None:
    """The head ignores its input and says one colour: images of that colour are predicted perfectly at every time."""
    perfect = small_model()
    color = torch.tensor([0.25, -0.5, 0.75])
    with torch.no_grad():
        perfect.pixels.head.weight.zero_()  # type: ignore[union-attr]
        perfect.pixels.head.bias.copy_(color.repeat_interleave(16))  # type: ignore[union-attr]
        group = SampleGroup(color[None, :, None, None].expand(3, 3, 24, 24), batch_of().generation[0].text_ids)
        assert float(losses(perfect, PackedBatch((group,)), replace(KEPT, time_mean=3.0))["flow"][0]) == 0
        assert float(losses(perfect, batch_of(), KEPT)["flow"][0]) > 0


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_text_loss_made_some_rows_at_a_time_is_the_whole_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rf_model, "TEXT_ROWS", rows)
    model = small_model()
    hidden = torch.randn(9, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.randint(VOCAB, (9,), generator=torch.Generator().manual_seed(1))
    total = model.text_cross_entropy(hidden, targets)
    total.backward()
    own_gradients = hidden.grad, model.text_head.weight.grad
    log_p = F.log_softmax(model.text_logits(hidden).double(), -1)
    expected = -log_p[torch.arange(9), targets].sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    for own, wanted in zip(own_gradients, torch.autograd.grad(expected, [hidden, model.text_head.weight]), strict=True):
        assert own is not None
        assert largest_difference(own, wanted) < 1e-5
    assert float(model.text_cross_entropy(hidden[:0], targets[:0])) == 0


@pytest.mark.parametrize(
    ("overrides", "mixture", "expected"),
    [
        ({}, MixtureConfig(), {"flow", "representation", "text"}),
        ({"representation__kind": "continuous"}, MixtureConfig(understanding=0), {"flow", "representation"}),
        ({"representation__kind": "repa"}, MixtureConfig(understanding=0, text=1), {"flow", "alignment", "text"}),
        ({"representation__kind": "none"}, MixtureConfig(generation=0, masked_image=1), {"text", "masked_image"}),
        ({"objective__caption_loss": True}, MixtureConfig(understanding=0), {"flow", "representation", "text"}),
        (
            {"model__decoder__num_experts": 2, "model__decoder__num_active_experts": 1, "objective__router_weight": 0.1},
            MixtureConfig(generation=0), {"text", "router"},
        ),
    ],
)  # fmt: skip
def test_a_stage_has_the_same_terms_in_every_step(
    overrides: dict[str, object], mixture: MixtureConfig, expected: set[str]
) -> None:
    stage = StageConfig(name="joint", steps=1, learning_rate=1.0, mixture=mixture)
    assert set(term_names(small_config(**overrides), stage)) == expected


def test_understanding_groups_add_up_to_their_union(model: RFModel) -> None:
    (question,) = batch_of(generation=0).understanding
    halves = tuple(SampleGroup(question.images[b : b + 1], question.text_ids[b : b + 1]) for b in range(2))
    with torch.no_grad():
        whole = losses(model, PackedBatch(understanding=(question,)), KEPT, None)["text"]
        split = losses(model, PackedBatch(understanding=halves), KEPT, None)["text"]
    assert int(whole[1]) == int(split[1])
    assert float(whole[0]) == pytest.approx(float(split[0]), rel=1e-5)


@torch.no_grad()
def test_only_an_answer_is_learned_where_there_is_a_question(model: RFModel) -> None:
    ids = texts([5, 4], 1)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    answers[0, 5:7] = answers[1, 4:6] = True  # the last word and eos
    batch = PackedBatch(understanding=(SampleGroup(images(2, 3), ids, answers),))
    total, count = losses(model, batch, KEPT, None)["text"]
    _, (logits,) = run(model, [], [UnderstandingInput(images(2, 3), ids)])
    log_p = F.log_softmax(logits, -1)
    expected = -sum(log_p[b, n - 1, ids[b, n]] for b in range(2) for n in range(1, LENGTH) if answers[b, n])
    assert count == 4
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_continuous_tokens_carry_the_velocity_loss_of_their_features() -> None:
    config = small_config(representation__kind="continuous", representation__continuous__draws=2)
    model = small_model(config)
    assert isinstance(model.representation, ContinuousTokens)
    features = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(4))
    objective = ObjectiveConfig(text_drop=NONE, representation_drop=0.5)
    total, count = losses(model, batch_of(3, 0), objective, [features])["representation"]

    generator = torch.Generator().manual_seed(9)  # one step's draws, the head's last
    t = sample_times(3, objective, generator)
    z = interpolate(patchify(images(3, 2), 4), normals(new_seeds(3, generator), 36, 48), t)
    torch.rand(3, generator=generator)
    dropped = torch.rand(3, generator=generator) < 0.5
    kept = [b for b in range(3) if not dropped[b]]
    assert 0 < len(kept) < 3
    ((output,), _) = run(model, [GenerationInput(texts([3, 5, 2], 0), z, t, features, dropped)], [])
    rows = [(b, n) for _ in range(2) for b in kept for n in range(16)]
    times = torch.rand(len(rows), generator=generator)
    noise = normals(new_seeds(len(kept), generator), 2, 16, 24).transpose(0, 1).reshape(-1, 24)
    expected = 0.0
    for row, (b, n) in enumerate(rows):
        noisy = times[row] * features[b, n] + (1 - times[row]) * noise[row]
        guess = model.representation.head(noisy[None], times[row, None], output.representation[b, n][None])[0]
        expected += float(((guess - features[b, n]) / max(1 - float(times[row]), 0.05)).square().sum())
    assert count == len(rows) * 24
    assert float(total) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_alignment_is_the_negative_cosine_of_each_pixel_token() -> None:
    model = small_model(small_config(representation__kind="repa", representation__alignment__layer=1))
    features = torch.randn(3, 36, 24, generator=torch.Generator().manual_seed(4))
    terms = losses(model, batch_of(3, 0), KEPT, [features])
    generator = torch.Generator().manual_seed(9)
    t = sample_times(3, KEPT, generator)
    z = interpolate(patchify(images(3, 2), 4), normals(new_seeds(3, generator), 36, 48), t)
    ((output,), _) = run(model, [GenerationInput(texts([3, 5, 2], 0), z, t)], [])
    a, b = output.aligned, features
    expected = -sum(float(a[i, p] @ b[i, p] / (a[i, p].norm() * b[i, p].norm())) for i in range(3) for p in range(36))
    assert present(terms) == {"flow", "alignment"}
    assert terms["alignment"][1] == 3 * 36
    assert float(terms["alignment"][0]) == pytest.approx(expected, rel=1e-4)


def test_weights_are_the_configured_ones() -> None:
    stage = StageConfig(name="joint", steps=1, learning_rate=1.0, text_weight=0.2)
    config = small_config(
        objective__flow_weight=0.3, objective__representation_weight=0.4, representation__alignment__weight=0.6,
        objective__router_weight=0.7,
    )  # fmt: skip
    given = weights(config, stage)
    assert [given[name] for name in ("text", "flow", "representation", "alignment", "router")] == [0.2, 0.3, 0.4, 0.6, 0.7]
    assert given["masked_image"] == 4.0


def test_drops_come_at_their_rates() -> None:
    """Counted over many samples through the terms themselves: a dropped text has no caption loss, a dropped R no L_Rep."""
    model = small_model(small_config(model__decoder__num_layers=1))
    count = 600
    group = SampleGroup(images(1, 0).expand(count, 3, 24, 24), texts([3], 0).expand(count, LENGTH))
    objective = ObjectiveConfig(text_drop=0.3, representation_drop=0.1, caption_loss=True)
    with torch.no_grad():
        terms = losses(model, PackedBatch((group,)), objective, [CODES[0][:1].expand(count, 16)])
    assert int(terms["text"][1]) / (4 * count) == pytest.approx(0.7, abs=0.07)  # four standard errors
    assert int(terms["representation"][1]) / (16 * count) == pytest.approx(0.9, abs=0.05)
