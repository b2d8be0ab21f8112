"""Names in a config are names of files, and unknown ones are refused where they are read and where they are asked for."""

from pathlib import Path

import pytest

from rf_repro.config.overrides import apply_overrides, from_dict
from rf_repro.config.registry import ENCODERS, REPRESENTATIONS, SPACES, WORLDS, Registry
from rf_repro.config.scales import smoke
from rf_repro.core.errors import UserError
from rf_repro.model.encoders import EncoderKind
from rf_repro.model.spaces import GenerationSpace
from rf_repro.representation.kinds import RepresentationKind
from rf_repro.worlds import World

ROOT = Path(__file__).parents[2]
OF = {WORLDS: World, REPRESENTATIONS: RepresentationKind, SPACES: GenerationSpace, ENCODERS: EncoderKind}


@pytest.mark.parametrize("registry", OF, ids=lambda registry: registry.field)
def test_a_registry_holds_what_its_folder_holds(registry: Registry) -> None:
    folder = ROOT / registry.package.replace(".", "/")
    files = sorted({path.stem for path in folder.iterdir() if not path.name.startswith("__")})
    assert registry.names() == files
    assert len(files) >= 2
    for name in files:
        assert isinstance(registry.get(name), OF[registry])
        assert registry.get(name) is registry.get(name)


@pytest.mark.parametrize("registry", OF, ids=lambda registry: registry.field)
def test_an_unknown_name_is_refused_wherever_it_is_met(registry: Registry) -> None:
    message = f"^{registry.field}='magic': must be one of {', '.join(registry.names())}$"
    with pytest.raises(UserError, match=message):
        registry.get("magic")
    with pytest.raises(UserError, match=message):
        apply_overrides(smoke(), {registry.field: "magic"})
    written = smoke().to_dict()
    *groups, last = registry.field.split(".")
    inner = written
    for group in groups:
        inner = inner[group]
    inner[last] = "magic"
    with pytest.raises(UserError, match=message):
        from_dict(written)


def test_one_that_is_added_is_known_for_the_block_alone() -> None:
    with REPRESENTATIONS.added("magic", REPRESENTATIONS.get("none")):
        assert "magic" in REPRESENTATIONS.names()
        assert apply_overrides(smoke(), {"representation.kind": "magic"}).representation.kind == "magic"
    assert "magic" not in REPRESENTATIONS.names()
    with pytest.raises(UserError, match="must be one of"):
        apply_overrides(smoke(), {"representation.kind": "magic"})
