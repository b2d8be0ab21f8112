"""The hash is the experiment's identity; stages that variants share are asked for once."""

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from rf_repro.config.model_schema import ContrastiveConfig
from rf_repro.config.overrides import apply_overrides, from_dict
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.scales import SCALES, paper, tiny
from rf_repro.config.schema import EvalConfig, ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError

# The only fields that may change without making another run.
RUNTIME = {
    "sampling.batch_size", "checkpoint_every", "data.workers", "model.vae.latent_cache",
    "parallel.sharding", "parallel.shard_group", "parallel.activation_checkpointing", "parallel.compile",
    *(f"model.encoder.contrastive.{item.name}" for item in fields(ContrastiveConfig)),  # in the hash of the row that takes it
}  # fmt: skip


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted path, node, field name) of every field that holds a plain value."""
    for item in fields(node):
        value, where = getattr(node, item.name), f"{path}.{item.name}".strip(".")
        if is_dataclass(value):
            yield from leaves(value, where)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            for entry in value:
                yield from leaves(entry, f"{where}.{entry.name}")
        else:
            yield where, node, item.name


PATHS = [path for path, _, _ in leaves(tiny())]


@pytest.mark.parametrize("path", PATHS)
def test_the_hash_changes_with_every_field_that_can_change_a_result(path: str) -> None:
    config = copy.deepcopy(tiny())
    node, name = next((node, name) for where, node, name in leaves(config) if where == path)
    object.__setattr__(node, name, "another value")  # past the checks: any value must show in the hash
    assert (config.result_hash() == tiny().result_hash()) == (path in RUNTIME)
    assert config.to_dict() != tiny().to_dict()


def test_the_runtime_fields_exist() -> None:
    assert set(PATHS) >= RUNTIME
    assert len(PATHS) == len(set(PATHS)) > 80


def test_hashes_differ_between_scales() -> None:
    assert len({scale().result_hash() for scale in SCALES.values()}) == len(SCALES)


@pytest.mark.parametrize(
    "overrides",
    [
        {"representation.kind": "discrete"},
        {"representation.codebook_size": 64},
        {"sampling.steps": 5},
        {"evals.images_per_task": 5},
        {"stages.joint.steps": 5},
        {"stages.joint.mixture.generation": 3},
    ],
)
def test_a_shared_stage_is_one_run_for_all_that_only_later_stages_see(overrides: dict[str, Any]) -> None:
    [shared] = shared_runs(tiny())
    [other] = shared_runs(apply_overrides(tiny(), overrides))
    assert shared.name == other.name == "stage-pretrain"
    assert shared.config.result_hash() == other.config.result_hash()
    assert [item.name for item in shared.config.stages] == ["pretrain"]


def test_a_vae_and_a_pretrained_encoder_are_shared_runs_of_their_own() -> None:
    plain, vae = tiny(), apply_overrides(tiny(), {"model.pixel.space": "vae"})
    [stage] = shared_runs(plain)
    assert [(run.name, run.after) for run in shared_runs(vae)] == [("stage-pretrain", ()), ("stage-vae", ())]
    assert shared_runs(vae)[0].config == stage.config
    both = [shared_runs(apply_overrides(plain, {"model.encoder.pretraining.kind": kind})) for kind in ("dino", "siglip")]
    for runs in both:
        assert [(run.name, run.after) for run in runs] == [("stage-encoder", ()), ("stage-pretrain", ("stage-encoder",))]
        assert shared_runs(runs[1].config)[0].config == runs[0].config  # the stage asks for the same encoder
    assert len({run.config.result_hash() for runs in both for run in runs}) == 4


def test_a_field_that_joined_later_leaves_hashes_alone_until_it_is_used() -> None:
    old = replace(tiny(), evals=EvalConfig())
    data = old.to_dict()
    del data["model"]["vae"], data["representation"]["alignment"], data["evals"]["questions_per_type"]
    assert from_dict(data) == old
    assert apply_overrides(old, {"evals.questions_per_type": 1}).result_hash() != old.result_hash()
    changed = apply_overrides(tiny(), {"model.vae.width": 8})
    assert changed.result_hash() != tiny().result_hash()
    assert from_dict(changed.to_dict()) == changed
    del data["model"]["pixel"]
    with pytest.raises(UserError, match=r"config.model: fields do not match"):
        from_dict(data)


@pytest.mark.parametrize(
    "overrides", [{"stages.pretrain.steps": 5}, {"model.decoder.width": 64}, {"data.scenes.seed": 1}, {"model.encoder.width": 48}]
)
def test_a_shared_stage_is_another_run_when_what_it_trains_changes(overrides: dict[str, Any]) -> None:
    [stage] = shared_runs(tiny())
    [other] = shared_runs(apply_overrides(tiny(), overrides))
    assert stage.config.result_hash() != other.config.result_hash()


def test_stages_must_be_named_apart_and_shared_ones_come_first() -> None:
    first, second = tiny().stages
    with pytest.raises(UserError, match="shared stages first"):
        ExperimentConfig(scale="x", stages=(second, first))
    with pytest.raises(UserError, match="names unique"):
        ExperimentConfig(scale="x", stages=(first, first))
    with pytest.raises(UserError, match="at least one"):
        ExperimentConfig(scale="x", stages=())
    with pytest.raises(UserError, match=r"no such stage; there are pretrain, joint"):
        tiny().stage("late")
    assert tiny().stage("joint") == second


@pytest.mark.parametrize(
    "overrides",
    [{"model.encoder.pretrained": "x"}, {"model.decoder.vocab_size": 9},
     {"stages.joint.tokens_per_rank": 512}, {"stages.pretrain.max_image_size": 64}, {"stages.joint.packs_per_step": 2},
     {"data.tokenizer": "x"}, {"data.sources": [{"name": "x"}]}],
)  # fmt: skip
def test_what_scenes_do_not_use_cannot_be_set(overrides: dict[str, Any]) -> None:
    (name,) = overrides
    with pytest.raises(UserError, match=f"{name}=.*which does not use it"):
        apply_overrides(tiny(), overrides)


def test_each_world_takes_the_encoders_that_suit_it() -> None:
    with pytest.raises(UserError, match=r"model\.encoder\.kind='dinov3': must be vit where data\.world=scenes"):
        apply_overrides(tiny(), {"model.encoder.kind": "dinov3"})
    with pytest.raises(UserError, match=r"model\.encoder\.kind='vit': must be dinov3 or siglip2 where data\.world=image_text"):
        apply_overrides(paper(), {"model.encoder.kind": "vit"})


def test_where_data_lies_does_not_make_another_run_but_which_data_it_is_does() -> None:
    def hashed(**source: Any) -> str:
        return apply_overrides(paper(), {"data.sources": [{"name": "photos", "path": "/a", **source}]}).result_hash()

    assert hashed() == hashed(path="/b") != paper().result_hash()
    assert len({hashed(), hashed(name="pictures"), hashed(weight=2.0), hashed(task="text"), hashed(format="parquet")}) == 5


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"path": "x"}], r"data.sources\[0\]: lacks name"),
        ([{"name": "a", "kind": "tar"}], r"data.sources\[0\]=.*must be a mapping of name, path"),
        ([{"name": "a"}, {"name": "a"}], "of different names"),
        ([{"name": "a", "task": "video"}], r"data.sources\[0\].task='video': must be one of generation"),
        ([{"name": "a", "weight": 0}], "data.sources.a.weight=0.0: must be > 0"),
    ],
)
def test_sources_are_checked_one_by_one(sources: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_overrides(paper(), {"data.sources": sources})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages.joint.max_image_size": 250}, "stages.joint.max_image_size=250: must be a multiple of 32 pixels"),
        ({"stages.joint.min_image_size": 512}, "stages.joint.min_image_size=512: must be 0 to max_image_size=256"),
        ({"stages.joint.tokens_per_rank": 0}, "stages.joint.tokens_per_rank=0: must be >= 1 token"),
        ({"stages.joint.packs_per_step": 0}, "stages.joint.packs_per_step=0: must be >= 1 pack"),
        ({"stages.joint.mixture.questions": 1}, "stages.joint.mixture=.*where data.world=image_text"),
        ({"stages.joint.mixture.generation": 8}, "stages.joint.mixture.generation=8: must be 0 or 1 where data.world=image_text"),
        ({"stages.joint.understanding_share": 1.5}, r"stages.joint.understanding_share=1.5: must be in \[0, 1\]"),
        ({"stages.joint.understanding_share": 0.0}, "understanding_share=0.0: must be at least a token .* has understanding"),
        ({"stages.joint.understanding_share": 1.0}, "understanding_share=1.0: must be less than a whole pack .* has generation"),
        ({"model.decoder.vocab_size": 0}, "model.decoder.vocab_size=0"),
        ({"objective.time_stratified": True}, "objective.time_stratified=True"),
    ],
)
def test_what_real_data_needs_is_checked_before_anything_is_queued(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_overrides(paper(), overrides)


def test_a_model_that_generates_nothing_takes_no_representation_tokens() -> None:
    with pytest.raises(UserError, match=r"representation.kind='discrete'.*nothing is generated"):
        apply_overrides(tiny(), {"representation.kind": "discrete", "model.pixel.space": "none"})


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"steps": 0}, "steps"), ({"learning_rate": 0.0}, "learning_rate"), ({"decay_fraction": 1.5}, "decay_fraction"),
     ({"name": "two words"}, "stages.name"), ({"warmup_steps": -1}, "warmup_steps")],
)  # fmt: skip
def test_a_bad_stage_names_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match=field):
        StageConfig(**{"name": "joint", "steps": 10, "learning_rate": 1e-3, **changes})
