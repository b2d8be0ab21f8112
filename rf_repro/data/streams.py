"""One of the streams that a stage's packs come from: sources mixed by their shares, filtered, counted; endless.

Streams are numbered through all ranks, `packs_per_step` of them, and each part of a pack has its own of every number. A stream is
a function of (seed, stage, part, number, position): what it gives depends on neither ranks nor workers, nor on the other part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any

from rf_repro.config.registry import SPACES
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import PARTS, Part, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.core.untrusted.problems import CorruptSample
from rf_repro.data.filters import Seen, digest
from rf_repro.data.prepare import Prepared, Preparer
from rf_repro.data.shards import read_shard
from rf_repro.data.shards.samples import RawSample
from rf_repro.data.source_reader import Reference, SourceReader
from rf_repro.data.text_tokenizer import ImageTextTokenizer

MIN_JUDGED = 100  # samples seen before a share of corrupt ones, or a row of unusable ones, stops a run
MAX_NAMED = 20  # corrupt samples named, of a source
MAX_LINE = 200  # characters kept of each
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio


@dataclass
class Counts:
    """What a stream has met in a source since the stage began.

    Attributes:
        seen: samples read; corrupt, dropped: those of them that could not be used, and that filters left out, by reason.
        named: the first corrupt ones and what is wrong with them.
        row: samples in a row, up to the latest, of which none could be used; undecodable: likewise, of those that were decoded.
        packed, tokens: samples that went into packs, and their tokens there.
    """

    seen: int = 0
    corrupt: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)
    row: int = 0
    undecodable: int = 0
    packed: int = 0
    tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "dropped": dict(self.dropped), "named": list(self.named)
        }  # fmt: skip


def shares(config: ExperimentConfig, stage: StageConfig) -> dict[Part, dict[str, float]]:
    """Part of a pack -> source name -> its share of the part's samples. What the stage does not use is left out.

    Raises:
        UserError: a kind in the mixture has no source, or there is nothing to generate for.
    """
    count = stage.mixture.generation
    if count and not SPACES.get(config.model.pixel.space).generates:
        raise UserError(
            f"stages.{stage.name}.mixture.generation={count}: must be 0 where model.pixel.space={config.model.pixel.space}"
        )
    found = {part: _shares(config, stage, kinds) for part, kinds in PARTS.items()}
    return {part: share for part, share in found.items() if share}


def _shares(config: ExperimentConfig, stage: StageConfig, tasks: Sequence[str]) -> dict[str, float]:
    """Those of one part."""
    kinds = {kind: getattr(stage.mixture, kind) for kind in tasks}
    result: dict[str, float] = {}
    for kind, count in kinds.items():
        sources = [source for source in config.data.sources if source.task == kind]
        if count and not sources:
            raise UserError(
                f"stages.{stage.name}.mixture.{kind}={count}: data.sources has no source of task {kind}; add one "
                "(--data FILE), or set it to 0"
            )
        if count:
            weight = sum(source.weight for source in sources)
            result |= {source.name: count / sum(kinds.values()) * source.weight / weight for source in sources}
    return result


class SampleStream:
    """Samples of stream `stream` of `num_streams` for one part of the packs, each ready for one.

    Which source is next follows a sequence of low discrepancy (multiples of the golden ratio), so that shares hold over short
    stretches too; they are shares of the samples that pass.
    """

    def __init__(
        self, config: ExperimentConfig, stage: StageConfig, seed: int, tokenizer: ImageTextTokenizer, part: Part, stream: int,
        position: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            part: one that the stage uses.
            position: to go on from, of `position()`; None: the beginning.

        Raises:
            UserError: a source is missing, or the position is of other sources or another number of streams.
        """
        self.config, self.stage = config, stage
        self.stream, self.num_streams = stream, stage.packs_per_step
        self.prepare = Preparer(config, stage, seed, tokenizer)
        share = shares(config, stage)[part]
        self._names = list(share)
        self._bounds = list(accumulate(share.values()))
        self._offset = derive_seed("mixture", seed, stage.name, part, stream)
        if position is not None:
            self._check(position)
        held = position["sources"] if position else {}
        self._sources = {source.name: source for source in config.data.sources if source.name in share}
        self._draws: int = position["draws"] if position else 0
        self._readers, self.counts, self._seen = {}, {}, {}
        for name, source in self._sources.items():
            saved = held.get(name)
            start = tuple(saved["next"]) if saved else (0, 0, 0)
            reader = SourceReader(source, seed, stage.name, stream, self.num_streams, start)
            if saved and saved["shards"] != len(reader.shards):
                raise UserError(
                    f"data.sources.{name}: has {len(reader.shards)} shards, and had {saved['shards']} when the run was saved; "
                    "give the same ones, or start a new run"
                )
            self._readers[name] = reader
            self.counts[name] = Counts(**_copied(saved["counts"])) if saved else Counts()
            self._seen[name] = Seen(saved["digests"] if saved else "")

    def __next__(self) -> Prepared:
        """The next sample that passes.

        Raises:
            UserError: too many of a source are corrupt, or none pass.
        """
        name = self._choose(self._draws)
        self._draws += 1
        reader, counts = self._readers[name], self.counts[name]
        while True:
            before = reader.epoch
            reference, raw = next(reader)
            if reader.epoch != before:
                self._seen[name].clear()
                if counts.row >= MIN_JUDGED:
                    self._fail_on_none(name)
            counts.seen += 1
            counts.row += 1
            if isinstance(raw, CorruptSample):
                self.note_corrupt(name, raw)
                continue
            try:
                found = self.prepare(raw, self._sources[name], reference)
            except CorruptSample as problem:
                self.note_corrupt(name, CorruptSample(f"{raw.key}: {problem}"))
                continue
            if isinstance(found, Prepared) and self._is_new(name, raw):
                counts.row = 0
                return found
            reason = "duplicate" if isinstance(found, Prepared) else found
            counts.dropped[reason] = counts.dropped.get(reason, 0) + 1

    def _choose(self, draw: int) -> str:
        point = (self._offset + draw * GOLDEN) % 2**64 / 2**64
        return next((name for name, bound in zip(self._names, self._bounds, strict=True) if point < bound), self._names[-1])

    def _is_new(self, name: str, raw: RawSample) -> bool:
        mode = self.config.data.filters.dedup
        if mode == "none":
            return True
        text = "\0".join([raw.text, *(part for turn in raw.turns for part in (turn.question, turn.answer))])
        return self._seen[name].add(digest(raw.image, text, mode))

    def note_corrupt(self, name: str, problem: CorruptSample) -> None:
        """Counts and names a sample that cannot be used.

        Raises:
            UserError: they are more than data.max_corrupt of the source's.
        """
        counts = self.counts[name]
        counts.corrupt += 1
        if len(counts.named) < MAX_NAMED:
            counts.named.append(str(problem)[:MAX_LINE])
        most = self.config.data.max_corrupt
        if counts.seen >= MIN_JUDGED and counts.corrupt > most * counts.seen:
            raise UserError(
                f"data.sources.{name}: {counts.corrupt} of {counts.seen} samples are corrupt, above data.max_corrupt={most:g}; "
                f"{'; '.join(counts.named[:3])}; mend or leave out these shards, or raise data.max_corrupt"
            )

    def note_packed(self, sample: Prepared) -> None:
        """The sample went into a pack."""
        counts = self.counts[sample.reference.source]
        counts.packed, counts.tokens = counts.packed + 1, counts.tokens + sample.tokens

    def note_decoded(self, name: str, problem: CorruptSample | None) -> None:
        """The image of a chosen sample was decoded, or could not be. Raises UserError as `note_corrupt`, and where none can."""
        counts = self.counts[name]
        counts.undecodable = 0 if problem is None else counts.undecodable + 1
        if problem is not None:
            self.note_corrupt(name, problem)
            if counts.undecodable >= MIN_JUDGED:
                self._fail_on_none(name)

    def _fail_on_none(self, name: str) -> None:
        counts = self.counts[name]
        reasons = {**counts.dropped, "corrupt": counts.corrupt}
        found = ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]) if count)
        example = f"; {counts.named[0]}" if counts.named else ""
        raise UserError(
            f"data.sources.{name}: none of the last {max(counts.row, counts.undecodable)} samples can be used "
            f"({found}{example}); change the source, data.filters, or tokens_per_rank, understanding_share or max_image_size "
            f"of stages.{self.stage.name}"
        )

    # Positions

    def position(self) -> dict[str, Any]:
        """Where the stream is, ready for JSON: after it, the same samples follow."""
        sources = {
            name: {
                "shards": len(reader.shards), "next": [reader.epoch, reader.unit, reader.index],
                "counts": self.counts[name].to_json(), "digests": self._seen[name].to_json(),
            }
            for name, reader in self._readers.items()
        }  # fmt: skip
        return {"stream": self.stream, "of": self.num_streams, "draws": self._draws, "sources": sources}

    def _check(self, position: dict[str, Any]) -> None:
        had = (position["stream"], position["of"], list(position["sources"]))
        if had[:2] != (self.stream, self.num_streams):
            raise UserError(
                f"stages.{self.stage.name}.packs_per_step: the saved position is of stream {had[0]} of {had[1]}, this is stream "
                f"{self.stream} of {self.num_streams}; resume with the same packs_per_step"
            )
        if set(had[2]) != set(self._names):
            raise UserError(
                f"data.sources: the saved position is of {', '.join(had[2])}, this stage has {', '.join(self._names)}; "
                "resume with the same sources"
            )

    def again(self, references: Sequence[Reference]) -> list[Prepared]:
        """Samples read and prepared earlier, once more, in that order.

        Raises:
            UserError: they are not what they were.
        """
        by_shard: dict[tuple[str, int], list[Reference]] = {}
        for reference in references:
            by_shard.setdefault((reference.source, reference.shard), []).append(reference)
        found: dict[Reference, Prepared] = {}
        for (name, shard), wanted in by_shard.items():
            source, path = self._sources[name], self._readers[name].shards[shard]
            samples: Iterable[RawSample | CorruptSample] = read_shard(path, source, [reference.index for reference in wanted])
            for reference, raw in zip(wanted, samples, strict=True):
                try:
                    again = self.prepare(raw, source, reference) if isinstance(raw, RawSample) else str(raw)
                except CorruptSample as problem:
                    again = str(problem)
                if not isinstance(again, Prepared):
                    raise UserError(f"{path}: sample {reference.index} was usable when the run was saved, and now is not "
                                    f"({again}); put the shard back as it was")  # fmt: skip
                found[reference] = again
        return [found[reference] for reference in references]


def _copied(counts: dict[str, Any]) -> dict[str, Any]:
    return {**counts, "dropped": dict(counts["dropped"]), "named": list(counts["named"])}
