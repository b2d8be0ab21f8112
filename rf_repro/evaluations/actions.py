"""The actions of an evaluation plan, as data: what to draw, what to score, what must be done before.

An action is small and pickles: jobs carry it. Its name is a word, of folders and of tables; its digest tells its settings apart.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rf_repro.core.action_dir import ActionDir
from rf_repro.core.hashing import content_hash
from rf_repro.core.run_dir import RunDir

Kind = Literal["sample", "evaluate", "answer"]
IMAGES = ("geneval", "dpg", "geneval2", "geneval-vlm")  # benchmarks of images; all others ask the run itself
OWN_PROMPTS = {"geneval": "official", "dpg": "dpg", "geneval2": "geneval2", "geneval-vlm": "official"}
OWN_NUM = {"geneval": 4, "dpg": 4, "geneval2": 1, "geneval-vlm": 4}  # images a prompt


@dataclass(frozen=True)
class Drawing:
    """Images of a prompt set at a size.

    Attributes:
        benchmark: whose prompts these are: `geneval`, `dpg`, or `geneval2`.
        prompts: name of a published set, or a file.
        size: pixels a side.
        num: images of each prompt.
        seed: of the sampling.
        rewritten: whether a language model has rewritten the prompts (Table 1's † rows).
    """

    benchmark: str
    prompts: str
    size: int
    num: int
    seed: int
    rewritten: bool = False

    kind: Kind = "sample"

    @property
    def set_name(self) -> str:
        """`official-256`, or with a file's name in front."""
        return f"{word(self.prompts)}-{self.size}"

    @property
    def name(self) -> str:
        return f"sample-{self.set_name}"

    @property
    def after(self) -> tuple[str, ...]:
        return ("train",)

    @property
    def digest(self) -> str:
        return content_hash(asdict(self))[:12]


@dataclass(frozen=True)
class Scoring:
    """One benchmark, on images or on the run itself.

    Attributes:
        images: what the run draws for it; None: the run is asked.
        folder: images of another system, which are there already.
        settings: who looks or answers, and on which data, as (name, value).
    """

    benchmark: str
    images: Drawing | None
    settings: tuple[tuple[str, Any], ...]
    folder: str | None = None

    @property
    def kind(self) -> Kind:
        return "answer" if self.images is None else "evaluate"

    @property
    def name(self) -> str:
        if self.images is None:
            return self.benchmark
        named = self.images.set_name
        return named if named.startswith(f"{self.benchmark}-") else f"{self.benchmark}-{named}"

    @property
    def after(self) -> tuple[str, ...]:
        """Names of actions of the same run."""
        if self.folder is not None:
            return ()
        return ("train",) if self.images is None else (self.images.name,)

    @property
    def digest(self) -> str:
        return content_hash(asdict(self))[:12]

    def get(self, name: str) -> Any:
        """A setting."""
        return dict(self.settings)[name]


Evaluation = Drawing | Scoring


def stale_reason(run: RunDir, evaluation: Evaluation) -> str:
    """What to do where an action was done by other settings: its number must not change under a table's feet."""
    folders = [ActionDir.of(run, evaluation.name).path]
    if isinstance(evaluation, Drawing):
        folders.append(images_of(run, evaluation))
    return f"made by other settings; move {' and '.join(map(str, folders))} away to have it made again"


def images_of(run: RunDir, drawing: Drawing) -> Path:
    """Where a run keeps the images of a prompt set at a size."""
    return run.path / "images" / drawing.set_name


def word(text: str) -> str:
    """Of a prompt set's name, or of a file's: letters, digits, `-` and `_`."""
    name = Path(text).stem if Path(text).suffix else text
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "prompts"
