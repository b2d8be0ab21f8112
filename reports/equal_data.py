"""Notes under a table on what its rows do not share: samples and tokens of a step, and encoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from reports.collect import GridRuns
from rf_repro.config.overrides import from_dict
from rf_repro.model.encoders import encoder_of

READ = ("data/understanding_samples", "data/generation_samples", "data/understanding_tokens", "data/generation_tokens")
UNDERSTANDING, GENERATION, *TOKENS = READ


def difference_notes(runs: GridRuns) -> list[str]:
    """What a step of each row reads, by the runs' own records, where a world's packs are filled by length; and the pretrained
    encoders, where rows differ in them."""
    return [*(_read(runs) if runs.world.reads_shards else ()), *_encoders(runs)]


def _read(runs: GridRuns) -> list[str]:
    """Means over the steps of a run, then over seeds. Nothing where no run has logged them."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    by_place: dict[tuple[int, int], list[float]] = {}  # (seed, step) -> what the rows that are there read to understand
    for row in runs.grid.rows:
        for seed, run in runs.rows[row.key].items():
            if run.metrics and all(name in run.metrics[-1] for name in READ):
                last = run.metrics[-1]
                rows.setdefault(row.label, []).append(last)
                by_place.setdefault((seed, last["step"]), []).append(last[UNDERSTANDING])
    if not rows:
        return []
    understood = {label: fmean(one[UNDERSTANDING] for one in found) for label, found in rows.items()}
    whole = all(len(values) == len(rows) and len(set(values)) == 1 for values in by_place.values())
    if len(rows) > 1 and whole:
        text = f"Understanding and text samples of a step are equally many in these rows: {fmean(understood.values()):,.1f}"
    else:
        text = f"Understanding and text samples of a step: {_listed(understood)}"
    generated = {label: fmean(one[GENERATION] for one in found) for label, found in rows.items()}
    tokens = {label: fmean(sum(one[name] for name in TOKENS) for one in found) for label, found in rows.items()}
    return [
        f"{text}. Samples to generate, which fill the rest of a pack: {_listed(generated)}. Tokens of a step: "
        f"{_listed(tokens, digits=0)} (runs' records)."
    ]


def _listed(values: Mapping[str, float], digits: int = 1) -> str:
    return ", ".join(f"{label} {value:,.{digits}f}" for label, value in values.items())


def _encoders(runs: GridRuns) -> list[str]:
    rows = {row.label: from_dict(runs.configs[row.key]).model.encoder for row in runs.grid.rows}
    pretrained = {label: encoder for label, encoder in rows.items() if encoder_of(encoder).is_pretrained}
    if len({repr(encoder) for encoder in pretrained.values()}) < 2:
        return []
    sizes = [encoder_of(encoder).size(encoder).total for encoder in pretrained.values()]
    said = [
        f"{label} {Path(encoder.pretrained).name}, {size / 1e6:,.0f} million parameters, {encoder.num_layers} layers of width "
        f"{encoder.width}, patches of {encoder.patch_size} px"
        for (label, encoder), size in zip(pretrained.items(), sizes, strict=True)
    ]
    return [f"Encoders: {'; '.join(said)}. {_classes(sizes)}"]


def _classes(sizes: Sequence[int]) -> str:
    ratio = max(sizes) / min(sizes)
    if ratio < 1.2:
        return "They are of one size class, and differ in architecture and in what they were pretrained on."
    return f"The largest has {ratio:.1f} times the parameters of the smallest: they differ in size too."
