"""What is trained on: the part of the schema (`rf_repro.config.schema`) that describes data."""

from dataclasses import dataclass
from typing import Literal

from rf_repro.config.fields import later_field, require, runtime_field

GENEVAL_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring", "spool", "bowtie")


@dataclass(frozen=True)
class ScenesConfig:
    """The procedural world of `tiny` and `small`: difficulty is these fields."""

    image_size: int = 24  # pixels a side
    shapes: tuple[str, ...] = ("circle", "square", "triangle", "cross")
    colors: tuple[str, ...] = ("red", "yellow", "green", "blue", "pink", "purple")  # of GenEval's ten, all but black
    max_objects: int = 3
    radius: float = 4.5  # pixels
    radius_jitter: float = 0.0  # relative, uniform in [1 - j, 1 + j]
    rotation: float = 0.0  # radians, uniform in [-r, r]
    grid_step: int = 2  # pixels between allowed object centres
    min_distance: float = 11.0  # pixels between centres; closer ones touch and the detector merges them
    background: Literal["plain", "graded", "textured"] = "plain"
    num_train: int = 40_000
    # By question type, in the order of `rf_repro.data.scenes.questions.QUESTION_TYPES`: how often training asks it beside the
    # others, and the largest share of noise in its images; each image has an even share of none to that.
    question_shares: tuple[int, ...] = later_field((1, 1, 1, 1, 1, 1, 1, 1))
    question_noise: tuple[float, ...] = later_field((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    held_out: float = 0.25  # share of position and attribution combinations never shown in training
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.image_size >= 8, "data.scenes.image_size", self.image_size, ">= 8 pixels")
        require(
            len(set(self.shapes)) == len(self.shapes) >= 2 and set(self.shapes) <= set(SHAPES),
            "data.scenes.shapes", self.shapes, f"at least two different ones of {', '.join(SHAPES)}",
        )  # fmt: skip
        require(
            len(set(self.colors)) == len(self.colors) >= 2 and set(self.colors) <= set(GENEVAL_COLORS) - {"black"},
            "data.scenes.colors", self.colors,
            f"at least two different ones of {', '.join(GENEVAL_COLORS)}, without black (backgrounds are dark)",
        )  # fmt: skip
        require(2 <= self.max_objects <= 4, "data.scenes.max_objects", self.max_objects, "2 to 4, as GenEval counts")
        require(self.radius > 0, "data.scenes.radius", self.radius, "> 0 pixels")
        require(0 <= self.radius_jitter < 1, "data.scenes.radius_jitter", self.radius_jitter, "in [0, 1)")
        require(self.rotation >= 0, "data.scenes.rotation", self.rotation, ">= 0 radians")
        require(self.grid_step >= 1, "data.scenes.grid_step", self.grid_step, ">= 1 pixel")
        require(self.num_train >= 1, "data.scenes.num_train", self.num_train, ">= 1")
        shares, noise = self.question_shares, self.question_noise
        require(len(shares) == 8 and min(shares) >= 1, "data.scenes.question_shares", shares, "eight numbers >= 1")
        require(len(noise) == 8 and 0 <= min(noise) <= max(noise) <= 1, "data.scenes.question_noise", noise, "eight, in [0, 1]")
        require(0 <= self.held_out <= 0.5, "data.scenes.held_out", self.held_out, "in [0, 0.5], so that every part stays seen")


@dataclass(frozen=True)
class SourceConfig:
    """One data set of `image_text`: shards of one format that hold samples of one task.

    The name is its identity in the config hash; where it lies is not, and the run record has a fingerprint of its shards.

    Formats: `webdataset` (tar shards), `parquet` (Hugging Face's, Arrow files too), `jsonl` (JSON lines beside image files).
    Columns (keys of a JSON record, members of a tar sample): `image_column` holds the image, `text_column` the caption or the
    text, `conversation_column` the turns of an understanding sample; "" is the format's usual name.
    """

    name: str
    path: str = runtime_field("")  # a file, a folder, or a glob pattern of shards
    format: Literal["webdataset", "parquet", "jsonl"] = "webdataset"
    task: Literal["generation", "understanding", "text"] = "generation"
    weight: float = 1.0  # among the sources of its task
    image_column: str = ""
    text_column: str = ""
    conversation_column: str = ""

    def __post_init__(self) -> None:
        require(self.name.replace("-", "_").isidentifier(), "data.sources.name", self.name, "letters, digits, _ and -")
        require(self.weight > 0, f"data.sources.{self.name}.weight", self.weight, "> 0")


@dataclass(frozen=True)
class FilterConfig:
    """Which samples of real data are used. BAGEL's pipeline filters by such measures; the numbers are assumed."""

    min_side: int = 64  # pixels of an image's shorter side
    max_aspect_ratio: float = 3.0  # longer over shorter side
    max_pixels: int = 64_000_000  # of a stored image; a larger one is refused before it is decoded
    min_text_chars: int = 1
    max_text_chars: int = 20_000
    dedup: Literal["none", "image", "image_text"] = "none"  # drop what was seen before in the same epoch, by its digest

    def __post_init__(self) -> None:
        for key in ("min_side", "max_pixels", "max_text_chars"):
            require(getattr(self, key) >= 1, f"data.filters.{key}", getattr(self, key), ">= 1")
        require(self.max_aspect_ratio >= 1, "data.filters.max_aspect_ratio", self.max_aspect_ratio, ">= 1")
        require(0 <= self.min_text_chars <= self.max_text_chars, "data.filters.min_text_chars", self.min_text_chars,
                 f"0 to max_text_chars={self.max_text_chars}")  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """`scenes`: the procedural world. `image_text`: shards of `sources`, packed to a budget of tokens."""

    world: str = "scenes"  # of the registry WORLDS
    scenes: ScenesConfig = ScenesConfig()
    caption_tokens: int = 12  # of a generation sample, special tokens included: in scenes exactly (padded), else at most
    answer_tokens: int = 16  # of an understanding sample's text, likewise
    sources: tuple[SourceConfig, ...] = later_field(())
    filters: FilterConfig = later_field(FilterConfig())
    tokenizer: str = later_field("")  # folder or hub id; "": where model.decoder.pretrained is
    lookahead: int = later_field(64)  # samples that wait for a pack they fit in
    max_corrupt: float = later_field(0.01)  # share of a source's samples; above it the run stops
    workers: int = runtime_field(2, later=True)  # loading processes a rank; 0: load in the training process

    def __post_init__(self) -> None:
        require(self.caption_tokens >= 4, "data.caption_tokens", self.caption_tokens, ">= 4 tokens")
        require(self.answer_tokens >= 4, "data.answer_tokens", self.answer_tokens, ">= 4 tokens")
        names = [source.name for source in self.sources]
        require(len(set(names)) == len(names), "data.sources", names, "of different names")
        require(self.lookahead >= 1, "data.lookahead", self.lookahead, ">= 1 sample")
        require(0 <= self.max_corrupt <= 1, "data.max_corrupt", self.max_corrupt, "in [0, 1]")
        require(self.workers >= 0, "data.workers", self.workers, ">= 0")
