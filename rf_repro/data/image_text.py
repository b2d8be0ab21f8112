"""The loader of image_text: a rank's packs of each step, read ahead by processes that each own some of its streams."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import PARTS, Part, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packer import CPU, Pack, PackArrays, PackStream
from rf_repro.data.streams import shares
from rf_repro.data.text_tokenizer import ImageTextTokenizer

PREFETCHED = 2  # steps a process is ahead


def streams_of(rank: int, num_ranks: int, num_streams: int) -> range:
    """The streams of a rank: rank r of R takes [r n / R, (r + 1) n / R).

    Raises:
        UserError: they cannot be shared out evenly.
    """
    if num_streams % num_ranks:
        raise UserError(f"packs_per_step={num_streams}: must be a multiple of the {num_ranks} ranks; change it or their number")
    share = num_streams // num_ranks
    return range(rank * share, (rank + 1) * share)


@dataclass(frozen=True)
class _Failed:
    """A UserError of a loading process, on its way to the training process."""

    line: str


class ImageTextData:
    """Packs of a stage for some of its streams; the same ones for any number of loading processes and ranks."""

    def __init__(
        self, config: ExperimentConfig, stage: StageConfig, seed: int, tokenizer: ImageTextTokenizer, streams: range
    ) -> None:
        """
        Args:
            streams: this rank's, of the stage's `packs_per_step` (`streams_of`).

        Raises:
            UserError: a kind of the stage's mixture has no source.
        """
        self.config, self.stage, self.seed, self.tokenizer, self.streams = config, stage, seed, tokenizer, streams
        shares(config, stage)  # says what has no source

    def steps(self, positions: Sequence[dict[str, Any]] | None = None, device: torch.device = CPU) -> Iterator[list[Pack]]:
        """The packs of each next step, one of each stream in the streams' order; endless.

        Args:
            positions: `Pack.position` of the streams' last packs, to go on after them; None: from the stage's beginning.
            device: where their tensors are to be. On CUDA the next step's are on their way while a step is worked on.

        Raises:
            UserError: in any process, of what streams find (its line says what and where).
        """
        arrays = self._arrays(positions)
        if device.type == "cuda":
            return _ahead(arrays, device)
        return ([one.to_pack(device) for one in packs] for packs in arrays)

    def _arrays(self, positions: Sequence[dict[str, Any]] | None) -> Iterator[list[PackArrays]]:
        held = list(positions) if positions is not None else [None] * len(self.streams)
        if len(held) != len(self.streams):
            raise UserError(f"{len(held)} saved positions for {len(self.streams)} streams; resume with the same packs_per_step")
        workers = min(self.config.data.workers, len(self.streams))
        steps = _Steps(self, held)
        if not workers:
            for packs in steps:
                yield _checked(packs)
            return
        loader: DataLoader[Any] = DataLoader(
            steps, batch_size=None, collate_fn=_as_it_is, num_workers=workers, prefetch_factor=PREFETCHED,
            worker_init_fn=_ignore_signals, generator=torch.Generator(),  # its own: the training's draws must not depend on it
        )  # fmt: skip
        parts = iter(loader)
        try:
            while True:
                # Worker w has streams w, w + workers, ...; the loader asks them in turn and keeps their order.
                found = [_checked(next(parts)) for _ in range(workers)]
                yield [found[index % workers][index // workers] for index in range(len(self.streams))]
        finally:
            del parts  # ends the processes


def _ahead(steps: Iterator[list[PackArrays]], device: torch.device) -> Iterator[list[Pack]]:
    """Each step's packs on a CUDA device, copied by a stream of its own while the step before them is worked on."""
    copying = torch.cuda.Stream(device)
    ready: list[Pack] | None = None
    for arrays in steps:
        before, arrived = ready, copying.record_event()
        with torch.cuda.stream(copying):
            ready = [one.to_pack(device) for one in arrays]
        if before is not None:
            working = torch.cuda.current_stream(device)
            working.wait_event(arrived)
            for pack in before:
                pack.batch.record_stream(working)
            yield before


class _Steps(IterableDataset[list[PackArrays] | _Failed]):
    """Each step's packs of the streams of this process: of all of the rank's, or of every `workers`-th."""

    def __init__(self, data: ImageTextData, positions: Sequence[dict[str, Any] | None]) -> None:
        self.data, self.positions = data, positions

    def __iter__(self) -> Iterator[list[PackArrays] | _Failed]:
        info, data = get_worker_info(), self.data
        first, step = (info.id, info.num_workers) if info else (0, 1)
        try:
            own = [
                PackStream(data.config, data.stage, data.seed, data.tokenizer, stream, position)
                for stream, position in list(zip(data.streams, self.positions, strict=True))[first::step]
            ]
            while True:
                yield [next(stream) for stream in own]
        except UserError as error:
            yield _Failed(str(error))


def _checked(found: list[PackArrays] | _Failed) -> list[PackArrays]:
    if isinstance(found, _Failed):
        raise UserError(found.line)
    return found


def _as_it_is(item: Any) -> Any:
    """In place of the loader's own conversion, which would make tensors of arrays, and a file handle of each."""
    return item


def _ignore_signals(worker: int) -> None:
    """SLURM sends its warnings to every process of a task; the training process acts on them, and then ends its loaders."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(kind, signal.SIG_IGN)


def metrics(packs: Sequence[Pack]) -> dict[str, float]:
    """What packs say: tokens over budget; and, since the stage began, of these streams, the shares of samples read that filters
    left out and that were corrupt."""
    counts = [source["counts"] for pack in packs for source in pack.sources.values()]
    seen = max(sum(count["seen"] for count in counts), 1)
    return {
        "data/utilisation": sum(pack.num_tokens for pack in packs) / sum(pack.budget for pack in packs),
        "data/dropped": sum(sum(count["dropped"].values()) for count in counts) / seen,
        "data/corrupt": sum(count["corrupt"] for count in counts) / seen,
    }


def packed(packs: Sequence[Pack]) -> dict[Part, tuple[int, int]]:
    """Samples and tokens that went into packs since the stage began, by part; `packs`: the last of each of some streams."""
    found: dict[Part, tuple[int, int]] = {}
    for part in PARTS:
        counts = [
            source["counts"] for pack in packs if part in pack.position for source in pack.position[part]["sources"].values()
        ]
        found[part] = (sum(count["packed"] for count in counts), sum(count["tokens"] for count in counts))
    return found
