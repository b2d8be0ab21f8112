"""A diff changes what it says and nothing else; a diff that could be a mistake is refused."""

from typing import Any

import pytest

from rf_repro.config.overrides import apply_overrides, from_dict, parse_override
from rf_repro.config.scales import SCALES, get_scale, tiny
from rf_repro.core.errors import UserError


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("representation.size", 1, "unknown field 'size'; allowed here: kind, codebook_size"),
        ("colour", 1, "unknown field 'colour'"),
        ("stages.later.steps", 1, "unknown stage 'later'; there are pretrain, joint"),
        ("stages.joint", 1, "name a field of the stage"),
        ("stages", [], "is a group of fields"),
        ("model.decoder", {}, "is a group of fields"),
        ("model.decoder.width.inner", 1, "is a value and has no field 'inner'"),
        ("model.decoder.width", "wide", "must be int, not str"),
        ("model.decoder.width", 64.0, "must be int, not float"),
        ("model.decoder.width", True, "must be int, not bool"),
        ("representation.center", 1, "must be bool, not int"),
        ("objective.text_drop", "much", "must be float, not str"),
        ("objective.text_drop", True, "must be float, not bool"),
        ("representation.kind", "magic", "must be one of continuous, discrete, none, repa"),
        ("optim.betas", [0.9], "must have 2 items"),
        ("optim.betas", 0.9, "must be a list"),
        ("data.scenes.shapes", ["circle", 3], "must be str, not int"),
        ("representation.codebook_size", 1, "must be >= 2"),
        ("model.pixel.patch_size", 5, "must be a divisor of data.scenes.image_size=24"),
        ("stages.joint.steps", 3000, "already has this value"),
    ],
)  # fmt: skip
def test_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        apply_overrides(tiny(), {path: value})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("stages.joint.steps", 200, 200),
        ("objective.text_drop", 0, 0.0),  # int -> float
        ("optim.betas", [0.8, 0.99], (0.8, 0.99)),  # list -> tuple
        ("data.scenes.shapes", ["circle", "ring"], ("circle", "ring")),
        ("representation.kind", "discrete", "discrete"),
        ("stages.joint.learning_rate", "5e-5", 5e-5),  # as YAML reads it
    ],
)
def test_applied_and_nothing_else_changed(path: str, value: Any, expected: Any) -> None:
    base = tiny()
    changed = apply_overrides(base, {path: value})
    before, after = leaves(base.to_dict()), leaves(changed.to_dict())
    assert {key for key in before | after if before.get(key) != after.get(key)} == {path}
    assert after[path] == (list(expected) if isinstance(expected, tuple) else expected)
    assert type(after[path]) is (list if isinstance(expected, tuple) else type(expected))
    assert base == tiny()


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {item["name"]: item for item in value}
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, item in value.items() for k, v in leaves(item, f"{path}.{name}".strip(".")).items()}


def test_later_overrides_see_earlier_ones() -> None:
    with pytest.raises(UserError, match="must be a divisor"):
        apply_overrides(tiny(), {"model.pixel.patch_size": 16})
    config = apply_overrides(tiny(), {"data.scenes.image_size": 48, "model.pixel.patch_size": 16})
    assert config.data.scenes.image_size // config.model.pixel.patch_size == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stages.joint.steps=200", ("stages.joint.steps", 200)),
        ("representation.kind=none", ("representation.kind", "none")),
        ("representation.center=false", ("representation.center", False)),
        ("data.scenes.shapes=[circle, ring]", ("data.scenes.shapes", ["circle", "ring"])),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_parse(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["steps", "=3", "a=[1"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_override(text)


@pytest.mark.parametrize("name", SCALES)
def test_from_dict_inverts_to_dict(name: str) -> None:
    config = get_scale(name)
    again = from_dict(config.to_dict())
    assert again == config
    assert again.result_hash() == config.result_hash()


def test_from_dict_is_strict() -> None:
    data = tiny().to_dict()
    data["representation"]["mood"] = "good"
    with pytest.raises(UserError, match=r"config\.representation: fields do not match"):
        from_dict(data)
    data = tiny().to_dict()
    del data["stages"][1]["steps"]
    with pytest.raises(UserError, match=r"config\.stages\[1\]: fields do not match"):
        from_dict(data)
    data = tiny().to_dict()
    data["model"]["decoder"]["width"] = "128"
    with pytest.raises(UserError, match=r"config\.model\.decoder\.width='128': must be int"):
        from_dict(data)
    with pytest.raises(UserError, match="fields do not match"):
        from_dict([])
