"""Who answers: a vision-language model by its specification, and what every benchmark that asks one is told of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluators.devices import Device, device_of
from evaluators.fields import at_least_one, check_fields
from evaluators.vlm.protocol import VisionLanguageModel
from rf_repro.core.errors import UserError

ENDPOINT = "openai:"
BATCH_SIZE, CPU_BATCH_SIZE, ENDPOINT_BATCH_SIZE = 8, 1, 64  # questions at once; an endpoint's are shared out over connections


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Who answers, and where the answers are kept.

    Args:
        model: who answers; or a function that makes it, called once the data are known to be there; or a specification for
            `load_vlm`.
        name: what the result calls it, without paths and addresses (default: after the specification, else its revision).
        device: of a model by specification, `auto`, cpu, cuda or mps.
        batch_size: questions at once. It may change the last bits of a reply (default: by specification and device; 1 for a
            model that is given).
        concurrency: requests at the same time, to an endpoint.
        reply_cache: folder that keeps an endpoint's replies by the hash of the request; None: none does.
        out: folder for replies, from which a stopped evaluation goes on, and for the result and its items; None: nothing is
            left behind.

    Raises:
        UserError: a field is not what it must be.
    """

    model: VisionLanguageModel | Callable[[], VisionLanguageModel] | str
    name: str | None = None
    device: Device = "auto"
    batch_size: int | None = None
    concurrency: int = 8
    reply_cache: Path | str | None = None
    out: Path | str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        at_least_one(self, "batch_size", "concurrency")

    def load(self) -> VisionLanguageModel:
        """Raises UserError when it cannot be loaded."""
        if isinstance(self.model, str):
            cache = Path(self.reply_cache) if self.reply_cache else None
            return load_vlm(self.model, self.device, concurrency=self.concurrency, reply_cache=cache)
        return self.model if isinstance(self.model, VisionLanguageModel) else self.model()

    def judge_name(self, model: VisionLanguageModel) -> str:
        """What a result calls the model that `load` gave."""
        return self.name or (model_name(self.model) if isinstance(self.model, str) else model.revision)

    def require_out(self) -> Path:
        """`out`, for a share of the questions. Raises UserError without one."""
        if self.out is None:
            raise UserError("out=None: a share of the questions needs a folder that keeps the replies; name one")
        return Path(self.out)

    @property
    def questions_at_once(self) -> int:
        """`batch_size`, or its default."""
        if self.batch_size is not None:
            return self.batch_size
        return default_batch_size(self.model, self.device) if isinstance(self.model, str) else 1


def check_vlm(spec: str) -> None:
    """What can be told of a model without loading it, or asking an endpoint that may be reached from elsewhere alone.

    Raises:
        UserError: as `load_vlm`.
    """
    if spec.startswith(ENDPOINT):
        endpoint_of(spec)
        return
    from evaluators.vlm.transformers_model import check_transformers_vlm

    check_transformers_vlm(spec)


def endpoint_of(spec: str) -> tuple[str, str]:
    """(name of the model, address) of an endpoint's specification. Raises UserError where it is none."""
    name, _, rest = spec.removeprefix(ENDPOINT).partition("@http")
    if not name or not rest.startswith(("://", "s://")):
        head, at, _ = spec.partition("@")
        shown = f"{head}@..." if at else spec  # the rest may hold a password
        raise UserError(f"model={shown!r}: must be openai:NAME@http://HOST:PORT/v1, the model's name and the API's address")
    return name, f"http{rest}"


def load_vlm(spec: str, device: str = "auto", *, concurrency: int = 8, reply_cache: Path | None = None) -> VisionLanguageModel:
    """A model by its specification.

    Args:
        spec: a folder or a hub id of a transformers image-text-to-text model, or `openai:NAME@http://HOST:PORT/v1`.

    Raises:
        UserError: it is neither, or cannot be loaded.
    """
    if spec.startswith(ENDPOINT):
        from evaluators.vlm.endpoint import Endpoint

        name, address = endpoint_of(spec)
        return Endpoint(name, address, concurrency=concurrency, cache=reply_cache)
    from evaluators.vlm.transformers_model import load_transformers_vlm

    return load_transformers_vlm(spec, device_of(device))


def default_batch_size(spec: str, device: str) -> int:
    """Questions at once for a model of this specification, on this device."""
    if spec.startswith(ENDPOINT):
        return ENDPOINT_BATCH_SIZE
    return CPU_BATCH_SIZE if device_of(device).type == "cpu" else BATCH_SIZE


def model_name(spec: str) -> str:
    """What a result calls a model of this specification: no machine's paths and no addresses."""
    if spec.startswith(ENDPOINT):
        return endpoint_of(spec)[0]
    return Path(spec).resolve().name if Path(spec).is_dir() else spec
