"""The paper's comparative sentences as data (Secs. 4.2 to 4.4): each names the rows, the columns and the test that decides it.

A claim is tested at any scale by the order of measured scores, because a small world's absolute scores are not the paper's.
The published numbers behind it are those of `reports.paper_values`; a test asserts that they make every claim true.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ablations.checks import check_fields, repeated
from ablations.questions import MIRRORS
from ablations.table3e import TABLE3E
from rf_repro.config.prerequisites import PrerequisiteKind
from rf_repro.core.errors import UserError
from rf_repro.worlds import named_world


@dataclass(frozen=True)
class Difference:
    """`better` scores more than `minimum` above `worse`."""

    better: str
    worse: str
    minimum: float = 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        return {self.better: 1.0, self.worse: -1.0}


@dataclass(frozen=True)
class GainDifference:
    """The gain of `better[0]` over `better[1]` is more than `minimum` above that of `worse[0]` over `worse[1]`."""

    better: tuple[str, str]
    worse: tuple[str, str]
    minimum: float = 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        return {self.better[0]: 1.0, self.better[1]: -1.0, self.worse[0]: -1.0, self.worse[1]: 1.0}


@dataclass(frozen=True)
class Equivalence:
    """The two scores are at most `bound` apart, whichever is ahead."""

    first: str
    second: str
    bound: float

    @property
    def weights(self) -> Mapping[str, float]:
        return {self.first: 1.0, self.second: -1.0}


@dataclass(frozen=True)
class LeadBelow:
    """`first` is less than `bound` ahead of `second`, or behind it. One-sided: being behind does not contradict the claim."""

    first: str
    second: str
    bound: float

    @property
    def weights(self) -> Mapping[str, float]:
        return {self.first: 1.0, self.second: -1.0}


@dataclass(frozen=True)
class ColumnsWon:
    """`better` is ahead of `worse` in at least `minimum` of the claim's columns; a tie is no win."""

    better: str
    worse: str
    minimum: int

    @property
    def weights(self) -> Mapping[str, float]:
        return {self.better: 1.0, self.worse: -1.0}


Comparison = Difference | GainDifference | Equivalence | LeadBelow | ColumnsWon


@dataclass(frozen=True)
class ClaimGate:
    """`metric` of `evals/<evaluation>.json` must reach `minimum` in the prerequisite of a kind that row `row` starts from.

    Where the row starts from none (weights that were downloaded, say), there is nothing to pass.
    """

    row: str
    kind: PrerequisiteKind
    evaluation: str
    metric: str
    minimum: float


@dataclass(frozen=True)
class Claim:
    """One sentence. Over several `columns` the scores' unweighted mean is compared, except where columns are counted.

    Attributes:
        unit: what the measured number is, e.g. a difference of GenEval.
        gates: what must hold for a measurement to decide the claim.
        needs: what a world that scores itself cannot give for it: it is tested on photographs alone.
    """

    id: str
    statement: str
    table: str
    section: str
    columns: tuple[str, ...]
    comparison: Comparison
    unit: str = "GenEval"
    gates: tuple[ClaimGate, ...] = ()
    needs: str = ""

    def __post_init__(self) -> None:
        owner = f"claim {self.id!r}"
        check_fields(owner, self, filled=("id", "statement", "table", "columns"))
        for part in (self.comparison, *self.gates):
            check_fields(f"{owner}: {type(part).__name__}", part)
        if twice := repeated(self.columns):
            raise UserError(f"{owner}: names the column {twice[0]!r} twice; name it once")
        if len(self.rows) < (4 if isinstance(self.comparison, GainDifference) else 2):
            raise UserError(f"{owner}: {type(self.comparison).__name__} names a row twice; compare rows that differ")

    def in_world(self, world: str) -> "Claim":
        """The claim as it is tested in a world, a value of `data.world`: about the columns that are measured there, and needing
        nothing more where photographs are drawn."""
        if named_world(world).scores_itself or (self.real_columns == self.columns and not self.needs):
            return self
        unit = MEAN_OF_BENCHMARKS if self.unit == MEAN else self.unit
        return replace(self, columns=self.real_columns, unit=unit, needs="")

    @property
    def real_columns(self) -> tuple[str, ...]:
        """Its columns on photographs."""
        mirrored = set(self.columns) <= set(MIRRORS)
        return tuple(MIRRORS[column] for column in self.columns) if mirrored else self.columns

    @property
    def rows(self) -> tuple[str, ...]:
        """Keys of the variants involved, in the order in which the sentence names them."""
        return tuple(self.comparison.weights)


SCORE = ("geneval",)
TYPES = tuple(MIRRORS)
MEAN = "mean over question types"
MEAN_OF_BENCHMARKS = "mean over benchmarks"
WON = "columns won"
BENCHMARK = "the benchmark itself: in this world a type of question stands beside it, which is no score on it"
SYSTEMS = "images of the systems compared, and RF-Pixel trained at scale paper, 1024 px"

# Codes are the method, so that poor codes count against RF; a poor VAE or a poor encoder of a baseline would count for it.
_VAE = ClaimGate("vae", "vae", "geneval-vae-reconstruction", "overall", 0.97)
_VAE_RF = ClaimGate("vae_rf", "vae", "geneval-vae-reconstruction", "overall", 0.97)
_ENCODERS = tuple(
    ClaimGate(row, "encoder", "encoder-probe", metric, minimum)
    for row in ("vlm_dino", "vlm_siglip")
    for metric, minimum in (("shape", 0.85), ("color", 0.95))
)

_TABLE3A = (
    Claim("rf_beats_pixel", "Pixel+RF beats Pixel", "table3a", "Sec. 4.4", SCORE, Difference("pixel_rf", "pixel")),
    Claim("rf_helps_vae", "RF helps VAE too: VAE+RF beats VAE", "table3a", "Sec. 4.4", SCORE,
          Difference("vae_rf", "vae"), gates=(_VAE,)),
    Claim("vae_beats_pixel", "Without RF, VAE beats Pixel", "table3a", "Sec. 4.4", SCORE,
          Difference("vae", "pixel"), gates=(_VAE,)),
    Claim("rf_gains_more_without_vae", "RF gains more in pixels than in VAE latents", "table3a", "Sec. 4.4", SCORE,
          GainDifference(("pixel_rf", "pixel"), ("vae_rf", "vae")), gates=(_VAE,)),
    Claim("pixel_rf_beats_vae", "Pixel+RF beats VAE without RF", "table3a", "Sec. 4.4", SCORE,
          Difference("pixel_rf", "vae"), gates=(_VAE,)),
    Claim("pixel_rf_matches_vae_rf", "With RF, pixels match VAE latents: at most 0.02 apart", "table3a", "Sec. 4.4", SCORE,
          Equivalence("pixel_rf", "vae_rf", 0.02), gates=(_VAE_RF,)),
)  # fmt: skip

_TABLES3B_TO_3E = (
    Claim("repa_beats_none", "REPA beats no use of the encoder's features", "table3b", "Sec. 4.4", SCORE,
          Difference("repa", "pixel")),
    Claim("rf_beats_repa", "RF beats REPA", "table3b", "Sec. 4.4", SCORE, Difference("pixel_rf", "repa")),
    # One-sided: continuous tokens that hurt would not help either. The bound is assumed: ten times smaller than what RF gains
    # in the paper, and the size of the noise between training seeds at `tiny`.
    Claim("continuous_does_not_help", "Continuous representation tokens do not help: they gain less than 0.05", "table3c",
          "Sec. 4.4", SCORE, LeadBelow("continuous", "pixel", 0.05)),
    Claim("discrete_beats_continuous", "Discrete representation tokens beat continuous ones", "table3c", "Sec. 4.4", SCORE,
          Difference("pixel_rf", "continuous")),
    # Two-sided: the sentence is that the size hardly matters, so a loss contradicts it as much as a gain.
    Claim("codebook_size_hardly_matters", "The codebook doubles, the score moves by at most 0.02", "table3d", "Sec. 4.4", SCORE,
          Equivalence("pixel_rf_k_double", "pixel_rf", 0.02)),
    Claim("dino_beats_siglip", "A self-supervised encoder (DINOv3) beats a contrastive one (SigLIP2) on 4 of 5", "table3e",
          "Sec. 4.4", tuple(column.key for column in TABLE3E.columns), ColumnsWon("vlm_dino", "vlm_siglip", 4), WON, _ENCODERS),
)  # fmt: skip

_TABLE2 = (
    Claim("generation_costs_understanding", "Generation without RF costs understanding: VLM-only beats Pixel on average",
          "table2", "Sec. 4.3", TYPES, Difference("vlm_only", "pixel"), MEAN),
    # One-sided: a Pixel+RF ahead of VLM-only would be no less close in the sense of the sentence. The bound is assumed.
    Claim("pixel_rf_stays_close_to_vlm", "Pixel+RF stays close to VLM-only: on average less than 0.02 behind", "table2",
          "Sec. 4.3", TYPES, LeadBelow("vlm_only", "pixel_rf", 0.02), MEAN),
    Claim("rf_improves_pixel_understanding", "RF improves Pixel on 6 of 8 understanding benchmarks", "table2", "Sec. 4.3",
          TYPES, ColumnsWon("pixel_rf", "pixel", 6), WON),
    Claim("rf_improves_vae_understanding", "RF improves VAE on 5 of 8 understanding benchmarks", "table2", "Sec. 4.3",
          TYPES, ColumnsWon("vae_rf", "vae", 5), WON, (_VAE,)),
    Claim("pixel_rf_beats_vae_rf_understanding", "Pixel+RF beats VAE+RF on 6 of 8 understanding benchmarks", "table2",
          "Sec. 4.3", TYPES, ColumnsWon("pixel_rf", "vae_rf", 6), WON, (_VAE_RF,)),
    Claim("pixel_rf_beats_vae_understanding", "Pixel+RF beats VAE on 6 of 8 understanding benchmarks", "table2", "Sec. 4.3",
          TYPES, ColumnsWon("pixel_rf", "vae", 6), WON, (_VAE,)),
)  # fmt: skip

# The paper's sentences on single benchmarks, with the sizes it names. Its last one, on ChartQA, is that little is lost; the
# bound is assumed.
_BENCHMARKS = (
    *(
        Claim(f"rf_gains_{name}", f"RF gains {gain} on {MIRRORS[kind]} (Pixel to Pixel+RF)", "table2", "Sec. 4.3", (kind,),
              Difference("pixel_rf", "pixel"), MIRRORS[kind], needs=BENCHMARK)
        for name, kind, gain in (("mmmu", "object", 4.3), ("mme", "color", 3.6), ("blink", "compare", 3.6),
                                 ("ai2d", "count", 4.5), ("realworldqa", "position", 2.7))
    ),
    Claim("rf_costs_docvqa", "RF costs 2.0 on DocVQA (Pixel to Pixel+RF)", "table2", "Sec. 4.3", ("word",),
          Difference("pixel", "pixel_rf"), MIRRORS["word"], needs=BENCHMARK),
    Claim("rf_costs_little_on_chartqa", "RF costs less than 1.0 on ChartQA (Pixel to Pixel+RF)", "table2", "Sec. 4.3", ("chart",),
          LeadBelow("pixel", "pixel_rf", 0.01), MIRRORS["chart"], needs=BENCHMARK),
    *(
        Claim(f"rf_gains_{name}_vae", f"RF gains {gain} on {MIRRORS[kind]} (VAE to VAE+RF)", "table2", "Sec. 4.3", (kind,),
              Difference("vae_rf", "vae"), MIRRORS[kind], needs=BENCHMARK)
        for name, kind, gain in (("hallusionbench", "existence", 5.6), ("mme", "color", 8.0))
    ),
)  # fmt: skip

_TABLE1 = (
    Claim("rf_pixel_beats_janus_pro", "RF-Pixel is ahead of Janus-Pro-7B on GenEval", "table1", "Sec. 4.2", SCORE,
          Difference("rf_pixel", "janus_pro"), needs=SYSTEMS),
    Claim("rf_pixel_beats_show_o2", "RF-Pixel is ahead of Show-o2 on GenEval", "table1", "Sec. 4.2", SCORE,
          Difference("rf_pixel", "show_o2"), needs=SYSTEMS),
    Claim("rf_pixel_beats_bagel", "RF-Pixel is ahead of BAGEL on GenEval", "table1", "Sec. 4.2", SCORE,
          Difference("rf_pixel", "bagel"), needs=SYSTEMS),
    Claim("rf_pixel_matches_blip3o", "RF-Pixel is level with BLIP3-o on GenEval: at most 0.02 apart", "table1", "Sec. 4.2", SCORE,
          Equivalence("rf_pixel", "blip3o", 0.02), needs=SYSTEMS),
    Claim("rf_pixel_matches_bagel_rewritten", "With rewritten prompts RF-Pixel matches BAGEL on GenEval: at most 0.02 apart",
          "table1", "Sec. 4.2", SCORE, Equivalence("rf_pixel_rewritten", "bagel_rewritten", 0.02), needs=SYSTEMS),
    Claim("rf_pixel_competitive_dpg", "RF-Pixel is competitive on DPG: less than 0.02 behind BAGEL", "table1", "Sec. 4.2",
          ("dpg",), LeadBelow("bagel", "rf_pixel", 0.02), "DPG", needs=SYSTEMS),
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (*_TABLE3A, *_TABLES3B_TO_3E, *_TABLE2, *_BENCHMARKS, *_TABLE1)
