"""Names in a config, and what they stand for: one registry for each sort of thing that a config names.

What a name stands for lies above the config, which only asks it whether the config suits it. It is found by its file when it is
first asked for, and imports no torch before it builds something.
"""

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rf_repro.core.errors import UserError

if TYPE_CHECKING:
    from rf_repro.config.model_schema import ModelConfig
    from rf_repro.config.schema import ExperimentConfig


class Named(Protocol):
    """What a config needs of the things it names."""

    def check(self, config: "ExperimentConfig") -> None:
        """Raises UserError where the config does not suit it."""


class NamedRepresentation(Named, Protocol):
    """What samples depend on besides."""

    has_tokens: bool  # whether tokens of its own are predicted before pixels


class NamedSpace(Named, Protocol):
    """What a config and its samples need of a generation space besides."""

    generates: bool  # whether there is a generation pathway at all

    def is_trained_first(self, config: "ModelConfig") -> bool:
        """Whether its VAE is trained in-suite, before the variants that use it."""


class NamedWorld(Named, Protocol):
    """What a config needs of its world besides."""

    def max_image_size(self, config: "ExperimentConfig") -> int:
        """Pixels of the longest side of an image."""

    def actions(self, config: "ExperimentConfig") -> Any:
        """What completes a run of a variant, in order."""


N = TypeVar("N", bound=Named)


class Registry(Generic[N]):
    """Things of one sort by name: each a module of `package`, named as the thing, that holds it as `KIND`.

    To add one is to add its file.
    """

    def __init__(self, field: str, package: str) -> None:
        """`field`: where configs name it, e.g. `representation.kind`."""
        self.field, self.package = field, package
        self._added: dict[str, N] = {}

    def names(self) -> list[str]:
        """Those that can be named, in alphabetical order."""
        spec = find_spec(self.package)
        assert spec is not None
        found = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)]
        return sorted({*(name for name in found if not name.startswith("_")), *self._added})

    def get(self, name: str) -> N:
        """Raises UserError where nothing has that name."""
        if name in self._added:
            return self._added[name]
        if name not in self.names():
            raise UserError(f"{self.field}={name!r}: must be one of {', '.join(self.names())}")
        module = import_module(f"{self.package}.{name}")
        if not callable(getattr(getattr(module, "KIND", None), "check", None)) or isinstance(module.KIND, type):
            raise UserError(f"{module.__file__}: must hold the kind {name!r} as KIND, an object; see docs/new_variant.md")
        self._added[name] = module.KIND
        return self._added[name]

    @contextmanager
    def added(self, name: str, kind: N) -> Iterator[None]:
        """Knows one more for the block, which has no file in the package."""
        assert name not in self.names(), name
        self._added[name] = kind
        try:
            yield
        finally:
            del self._added[name]


WORLDS: Registry[NamedWorld] = Registry("data.world", "rf_repro.worlds")
REPRESENTATIONS: Registry[NamedRepresentation] = Registry("representation.kind", "rf_repro.representation.kinds")
SPACES: Registry[NamedSpace] = Registry("model.pixel.space", "rf_repro.model.spaces")
ENCODERS: Registry[Named] = Registry("model.encoder.kind", "rf_repro.model.encoders")
