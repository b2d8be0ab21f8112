"""The procedural world of `tiny` and `small`: images with GenEval-style captions and questions, drawn and scored by rules."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rf_repro.config.fields import require
from rf_repro.config.prerequisites import PrerequisiteKind
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.model.encoders import encoder_of, kinds_that
from rf_repro.worlds import Piece, Progress, Size, World

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rf_repro.compute.ranks import Ranks
    from rf_repro.data.scenes.tokenizer import SceneTokenizer
    from rf_repro.model.space import ImageSpace
    from rf_repro.model.workload import Workload
    from rf_repro.sample.prompts import Captions, PromptReader
    from rf_repro.train.data import Tokenizer, TrainingData
    from rf_repro.train.encoder_pretraining import EncoderPretraining
    from rf_repro.train.trainer import Trainer

MEASURED_SCENES = 256  # to train on: the whole world takes longer to render than all that is measured


class Scenes(World):
    """See `rf_repro.data.scenes` for what is drawn, and this package for how runs are scored."""

    def check(self, config: ExperimentConfig) -> None:
        size = config.data.scenes.image_size
        require(size % config.model.pixel.patch_size == 0, "model.pixel.patch_size", config.model.pixel.patch_size,
                f"a divisor of data.scenes.image_size={size}")  # fmt: skip
        require(size % (2 * config.model.encoder.patch_size) == 0, "model.encoder.patch_size", config.model.encoder.patch_size,
                f"a divisor of half of data.scenes.image_size={size} (2x2 pooling)")  # fmt: skip
        require(
            not encoder_of(config.model.encoder).is_pretrained,
            "model.encoder.kind",
            config.model.encoder.kind,
            f"{kinds_that(lambda kind: not kind.is_pretrained)} where data.world=scenes, which pretrains its encoder itself",
        )
        _require_unset_what_is_not_used(config)

    def max_image_size(self, config: ExperimentConfig) -> int:
        return config.data.scenes.image_size

    def label(self, config: ExperimentConfig) -> str:
        return f"procedural scenes, {self.max_image_size(config)} px"

    def check_run(self, config: ExperimentConfig) -> None:
        if config.parallel.sharding != "none":
            raise UserError("parallel.sharding=fsdp: models of the scenes world are sampled as they train; use none")

    # Data

    def tokenizer(self, config: ExperimentConfig) -> "SceneTokenizer":
        from rf_repro.data.scenes.tokenizer import SceneTokenizer

        return SceneTokenizer(config.data.scenes)

    def data(
        self,
        config: ExperimentConfig,
        stage: StageConfig,
        seed: int,
        tokenizer: "Tokenizer",
        ranks: "Ranks",
        device: "torch.device",
    ) -> "TrainingData":
        from rf_repro.data.scenes.mixture import SceneMixture
        from rf_repro.worlds.scenes.data import SceneData

        return SceneData(SceneMixture(config.data, self.tokenizer(config)), stage, seed, ranks)

    def fingerprint(self, config: ExperimentConfig) -> str:
        from rf_repro.data.scenes.world import world_fingerprint

        return world_fingerprint(config.data.scenes)

    def component_data(self, config: ExperimentConfig) -> "tuple[Tensor, Tensor]":
        from rf_repro.data.scenes.mixture import SceneMixture

        mixture = SceneMixture(config.data, self.tokenizer(config))
        return mixture.images, mixture.dense_answers

    # Prompts

    def check_size(self, config: ExperimentConfig, size: Size | None) -> Size:
        own = (config.max_image_size, config.max_image_size)
        if size not in (None, own):
            assert size is not None
            raise UserError(f"--size {size[0]}x{size[1]}: images of this run's scenes are {own[0]}x{own[1]}; leave --size out")
        return own

    def captions(self, config: ExperimentConfig, texts: Sequence[str]) -> "Captions":
        import torch

        from rf_repro.data.packing import TextTokens
        from rf_repro.sample.prompts import Captions

        words = self.tokenizer(config)
        ids = list(torch.from_numpy(words.encode(texts, config.data.caption_tokens)))
        return Captions(ids, TextTokens(words.pad_id, words.bos_id, words.null_id), words.vocab_size)

    def reader(self, config: ExperimentConfig) -> "PromptReader":
        from rf_repro.worlds.scenes.reader import SceneReader

        return SceneReader(config)

    # Cost

    def workload(self, config: ExperimentConfig, stage: StageConfig, ranks: int) -> "Workload":
        from rf_repro.model.workload import SampleShape, Workload, sample_shape

        shares = {kind: count for kind, count in vars(stage.mixture).items() if count}
        if ranks > max(shares.values()):
            raise UserError(f"stages.{stage.name}.mixture: {max(shares.values())} samples of a kind at most for {ranks} GPUs; "
                            "use fewer GPUs")  # fmt: skip
        shapes: dict[str, tuple[SampleShape, ...]] = {
            kind: (sample_shape(config, kind, config.max_image_size),) for kind in shares
        }
        return Workload({kind: count / ranks for kind, count in shares.items()}, shapes, ranks)

    def for_measuring(self, config: ExperimentConfig) -> ExperimentConfig:
        scenes = replace(config.data.scenes, num_train=MEASURED_SCENES)
        representation = replace(config.representation, warmup_batches=0)
        return replace(config, data=replace(config.data, scenes=scenes), representation=representation)

    def pieces(self, config: ExperimentConfig, kind: PrerequisiteKind | None) -> list[Piece]:
        from rf_repro.worlds.scenes.pieces import pieces

        return pieces(config, kind)

    def speeds(self, trainer: "Trainer") -> Iterator[tuple[str, float]]:
        from rf_repro.worlds.scenes.speeds import speeds

        return speeds(trainer)

    # Scores

    def check_stage(self, config: ExperimentConfig, run: RunDir, progress: Progress) -> None:
        from rf_repro.worlds.scenes.gates import check_ground_truth

        check_ground_truth(config, run, progress)

    def check_encoder(self, training: "EncoderPretraining", run: RunDir) -> None:
        from rf_repro.worlds.scenes.gates import check_encoder

        check_encoder(training, run)

    def check_vae(
        self, config: ExperimentConfig, space: "ImageSpace", run: RunDir, progress: Progress, device: "torch.device"
    ) -> None:
        from rf_repro.worlds.scenes.gates import check_reconstruction

        check_reconstruction(config, space, run, progress, device)

    def score_step(self, trainer: "Trainer", run: RunDir, progress: Progress) -> None:
        from rf_repro.worlds.scenes.evaluation import evaluate_curve

        evaluate_curve(trainer, run, progress)

    def sample(self, trainer: "Trainer", run: RunDir, progress: Progress) -> None:
        from rf_repro.worlds.scenes.evaluation import sample_benchmark

        sample_benchmark(trainer, run, progress)

    def evaluate(self, trainer: "Trainer", run: RunDir, progress: Progress) -> None:
        from rf_repro.worlds.scenes.evaluation import evaluate_final

        evaluate_final(trainer, run, progress)


def _require_unset_what_is_not_used(config: ExperimentConfig) -> None:
    """Settings of real data and pretrained weights must not be silently ignored."""
    encoder, decoder = config.model.encoder, config.model.decoder
    used: dict[str, tuple[object, object]] = {  # (value, what it must be)
        "model.encoder.pretrained": (encoder.pretrained, ""),
        "model.decoder.pretrained": (decoder.pretrained, ""),
        "model.decoder.vocab_size": (decoder.vocab_size, 0),
        "model.max_image_size": (config.model.max_image_size, 0),
        "data.sources": (config.data.sources, ()),
        "data.tokenizer": (config.data.tokenizer, ""),
    }
    for stage in config.stages:
        used[f"stages.{stage.name}.packs_per_step"] = (stage.packs_per_step, 0)
        used[f"stages.{stage.name}.tokens_per_rank"] = (stage.tokens_per_rank, 0)
        used[f"stages.{stage.name}.max_image_size"] = (stage.max_image_size, 0)
    for name, (value, off) in used.items():
        require(value == off, name, value, f"{off!r} where data.world=scenes, which does not use it")


KIND = Scenes()
