"""Photographs with text, from shards of the user's: the data of `base` and `paper`. Scores are made by commands of their own,
which name prompts, sizes and judges."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rf_repro.config.fields import require
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_text
from rf_repro.core.geneval_names import table_size
from rf_repro.core.hashing import content_hash
from rf_repro.model.encoders import encoder_of, kinds_that
from rf_repro.worlds import Size, World

if TYPE_CHECKING:
    import torch

    from rf_repro.compute.ranks import Ranks
    from rf_repro.data.text_tokenizer import ImageTextTokenizer
    from rf_repro.model.workload import Workload
    from rf_repro.sample.prompts import Captions, PromptReader
    from rf_repro.train.data import Tokenizer, TrainingData


class ImageText(World):
    """See `rf_repro.data.image_text` for how shards become packs."""

    scores_itself = False
    reads_shards = True

    def check(self, config: ExperimentConfig) -> None:
        decoder, stride = config.model.decoder, config.image_stride
        require(decoder.vocab_size >= 1, "model.decoder.vocab_size", decoder.vocab_size,
                ">= 1 where data.world=image_text: that of the pretrained decoder")  # fmt: skip
        require(not decoder.distance_bias, "model.decoder.distance_bias", True, "false where data.world=image_text")
        require(not config.objective.time_stratified, "objective.time_stratified", True, "false where data.world=image_text")
        for stage in config.stages:
            where, mixture = f"stages.{stage.name}.", stage.mixture
            require(stage.tokens_per_rank >= 1, where + "tokens_per_rank", stage.tokens_per_rank, ">= 1 token")
            require(stage.packs_per_step >= 1, where + "packs_per_step", stage.packs_per_step, ">= 1 pack")
            require(mixture.questions == mixture.masked_image == 0, where + "mixture", asdict(mixture),
                    "of generation, understanding and text where data.world=image_text")  # fmt: skip
            require(mixture.generation in (0, 1), where + "mixture.generation", mixture.generation,
                    "0 or 1 where data.world=image_text: it fills what understanding_share leaves of a pack")  # fmt: skip
            understands = mixture.understanding + mixture.text > 0
            require(stage.understanding_tokens >= 1 or not understands, where + "understanding_share", stage.understanding_share,
                    "at least a token of a pack where its mixture has understanding or text")  # fmt: skip
            require(stage.understanding_tokens < stage.tokens_per_rank or not mixture.generation, where + "understanding_share",
                    stage.understanding_share, "less than a whole pack where its mixture has generation")  # fmt: skip
            for key in ("min_image_size", "max_image_size"):
                size = getattr(stage, key)
                require(size % stride == 0 and (size or key == "min_image_size"), where + key, size,
                        f"a multiple of {stride} pixels (2x2 encoder patches, and pixel patches)")  # fmt: skip
            require(stage.max_image_size <= config.model.max_image_size, where + "max_image_size", stage.max_image_size,
                    f"at most model.max_image_size={config.model.max_image_size}")  # fmt: skip
        require(config.model.max_image_size % stride == 0, "model.max_image_size", config.model.max_image_size,
                f"a multiple of {stride} pixels")  # fmt: skip
        require(encoder_of(config.model.encoder).takes_any_size, "model.encoder.kind", config.model.encoder.kind,
                f"{kinds_that(lambda kind: kind.takes_any_size)} where data.world=image_text")  # fmt: skip

    def max_image_size(self, config: ExperimentConfig) -> int:
        return config.model.max_image_size

    def drawn_size(self, config: ExperimentConfig) -> int:
        """Less than the model could, where the run ends before the stage of the largest images."""
        return max(stage.max_image_size for stage in config.stages)

    def label(self, config: ExperimentConfig) -> str:
        return f"image-text data, up to {self.drawn_size(config)} px"

    def check_run(self, config: ExperimentConfig) -> None:
        if not config.data.sources:
            raise UserError(f"scale {config.scale!r}: data.sources=(): name data to train on by --data FILE, or use scale tiny")

    # Data

    def tokenizer(self, config: ExperimentConfig) -> "ImageTextTokenizer":
        from rf_repro.data.text_tokenizer import ImageTextTokenizer

        return ImageTextTokenizer.from_config(config)

    def data(
        self,
        config: ExperimentConfig,
        stage: StageConfig,
        seed: int,
        tokenizer: "Tokenizer",
        ranks: "Ranks",
        device: "torch.device",
    ) -> "TrainingData":
        from rf_repro.data.image_text import ImageTextData, streams_of
        from rf_repro.data.text_tokenizer import ImageTextTokenizer
        from rf_repro.worlds.image_text.data import StreamedData

        assert isinstance(tokenizer, ImageTextTokenizer)
        streams = streams_of(ranks.rank, ranks.size, stage.packs_per_step)
        return StreamedData(ImageTextData(config, stage, seed, tokenizer, streams), ranks, device)

    def fingerprint(self, config: ExperimentConfig) -> str:
        from rf_repro.data.shards import fingerprint

        return content_hash({source.name: fingerprint(source) for source in config.data.sources})

    # Prompts

    def check_size(self, config: ExperimentConfig, size: Size | None) -> Size:
        """By itself the paper's ablations' size, or the largest that the run was trained to draw."""
        stride, largest = config.image_stride, self.drawn_size(config)
        if size is None:
            return (table_size(largest), table_size(largest))
        if any(side < 1 or side % stride or side > largest for side in size):
            raise UserError(
                f"--size {size[0]}x{size[1]}: both sides must be multiples of {stride} pixels, at most {largest}, the largest of "
                f"this run's training, which ends with stage {config.stages[-1].name}"
            )
        return size

    def captions(self, config: ExperimentConfig, texts: Sequence[str]) -> "Captions":
        import torch

        from rf_repro.data.packing import TextTokens
        from rf_repro.sample.prompts import Captions

        words, limit, ids = self.tokenizer(config), config.data.caption_tokens, []
        for text in texts:
            if not text.strip():
                raise UserError(f"--prompt {text!r}: must say what to draw")
            whole = words.caption(text, len(text.encode()) + 4)  # no text has more tokens than bytes
            if len(whole) > limit:
                raise UserError(
                    f"prompt {text[:40]!r}: has {len(whole)} tokens, more than data.caption_tokens={limit} of this run; "
                    "shorten it"
                )
            ids.append(torch.from_numpy(whole))
        return Captions(ids, TextTokens(words.pad_id, words.bos_id, words.null_id), words.vocab_size)

    def reader(self, config: ExperimentConfig) -> "PromptReader":
        from rf_repro.worlds.image_text.reader import ImageTextReader

        return ImageTextReader(config)

    def export_tokenizer(self, config: ExperimentConfig, folder: Path) -> None:
        write_text(folder / "tokenizer.json", self.tokenizer(config).to_json())

    # Cost

    def workload(self, config: ExperimentConfig, stage: StageConfig, ranks: int) -> "Workload":
        from rf_repro.worlds.image_text.workload import workload

        return workload(config, stage, ranks)

    def extreme_packs(self, config: ExperimentConfig, stage: StageConfig, ranks: int) -> "dict[str, Workload]":
        from rf_repro.worlds.image_text.workload import extreme_packs

        return extreme_packs(config, stage, ranks)


KIND = ImageText()
