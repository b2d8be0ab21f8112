"""Training of the model: every stage of every variant."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig, MixtureConfig, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.data.mixture import SceneMixture
from rf_repro.data.packing import PackedBatch, TextTokens
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.model.encoder import MaskedImageHead, VisionTransformer
from rf_repro.model.initialise import initialise, start_from
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.representation.alignment import resize_grid
from rf_repro.representation.continuous import FeatureStatistics
from rf_repro.representation.vq import OnlineVQ, usage_and_perplexity
from rf_repro.train.ema import Average
from rf_repro.train.loop import DTYPES, StepLosses, TrainingLoop
from rf_repro.train.objective import compute_losses, own_part, weights
from rf_repro.train.optim import MasterOptimizer
from rf_repro.train.ranks import ALONE, Ranks

WARMUP_IMAGES = 128  # in each codebook warm-up batch
INITIAL_IMAGES = 2048  # whose features the prototypes are drawn from


class Trainer(TrainingLoop):
    """Trains one stage: model, targets (EMA encoder and codebook), optimiser, averages.

    Args:
        stage: the stage of `config` to train.
        start: weights of the stage before it (a shared stage's EMA weights), or None to start from `seed` alone.
        encoder: weights of a pretrained encoder, by name, which a first stage starts from.
        space: what generation tokens hold; None: pixels.
        ranks: who share out the samples of each step. Batch and draws are the same for any number of them.

    Raises:
        UserError: more ranks than generation samples in a step.
    """

    can_share = True

    def __init__(
        self,
        config: ExperimentConfig,
        stage: StageConfig,
        seed: int,
        device: torch.device,
        mixture: SceneMixture,
        tokenizer: SceneTokenizer,
        start: dict[str, Tensor] | None = None,
        encoder: dict[str, Tensor] | None = None,
        space: ImageSpace | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(config, stage, seed, device, ranks=ranks)
        if 0 < stage.mixture.generation < ranks.size:
            raise UserError(
                f"stages.{stage.name}.mixture.generation={stage.mixture.generation}: fewer samples a step than the {ranks.size} "
                f"ranks; start at most {stage.mixture.generation}, or raise it"
            )
        self.mixture = mixture
        self.tokens = TextTokens(tokenizer.pad_id, tokenizer.bos_id, tokenizer.null_id)
        self.space: ImageSpace = PixelSpace(config.model.pixel.patch_size) if space is None else space
        self._recent_codes: list[Tensor] = []  # since the last row of metrics

        self.model = RFModel(config, tokenizer.vocab_size)
        initialise(self.model, seed)
        if encoder is not None:
            self.model.encoder.load_state_dict(encoder)
        if start is not None:
            start_from(self.model, start)
        self.masked_head: MaskedImageHead | None = None
        if stage.mixture.masked_image:
            self.masked_head = MaskedImageHead(config.model.encoder)
            initialise(self.masked_head, seed)
        self.model.to(device)
        modules = {"model": self.model, **({"masked_head": self.masked_head.to(device)} if self.masked_head else {})}
        named = {
            name if prefix == "model" else f"{prefix}.{name}": parameter
            for prefix, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        trained = {name: p for name, p in named.items() if stage.trains == "all" or name.startswith("connector.")}
        for name, parameter in named.items():
            parameter.requires_grad_(name in trained)
        self.optimizer = MasterOptimizer(trained, config.optim, stage, ranks)
        self.frozen = {name: p.detach().clone() for name, p in named.items() if name not in trained}
        self.average = Average(self.masters(), config.optim.ema_decay, warm_up=True)
        for module in modules.values():
            module.to(DTYPES[config.optim.precision])

        self.vq: OnlineVQ | None = None  # of discrete tokens
        self.statistics: FeatureStatistics | None = None  # of continuous tokens, and of REPA's features
        self.target_encoder: VisionTransformer | None = None
        if config.representation.kind != "none":
            self.target_average = Average(self._encoder_masters(), config.model.encoder.target_ema_decay, warm_up=False)
            self.target_encoder = copy.deepcopy(self.model.encoder).requires_grad_(False)
            if config.representation.kind == "discrete":
                self.vq = OnlineVQ(config.representation, config.model.encoder.width).to(device)
            else:
                self.statistics = FeatureStatistics(config.model.encoder.width).to(device)

    # Weights by name, float32

    def masters(self) -> dict[str, Tensor]:
        """Of the model, frozen ones included."""
        everything = {**self.frozen, **self.optimizer.masters}
        return {name: everything[name] for name, _ in self.model.named_parameters()}

    def _encoder_masters(self) -> dict[str, Tensor]:
        return {n.removeprefix("encoder."): t for n, t in self.masters().items() if n.startswith("encoder.")}

    def inference_model(self) -> RFModel:
        """A copy of the model with the averaged weights, for sampling (App. A)."""
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        model.load_state_dict(self.average.values)
        return model

    # Targets

    @torch.no_grad()
    def target_features(self, images: Tensor) -> Tensor:
        """Features of the EMA encoder before its final norm (Sec. 3.1), float32: pooled [B, N, F], or on the generation
        tokens' grid [B, P, F] where they are aligned with."""
        assert self.target_encoder is not None
        images = images.to(self.device, DTYPES[self.config.optim.precision])
        if self.model.alignment is not None:
            assert self.model.pixels is not None
            return resize_grid(self.target_encoder(images).float(), self.model.pixels.grid)
        return self.target_encoder.pooled(images).float()

    @torch.no_grad()
    def warm_up_targets(self) -> None:
        """Statistics, or prototypes, from the features of the first images; then codebook-only updates (assumed)."""
        generator = torch.Generator().manual_seed(derive_seed("codebook", self.seed))
        only_images = replace(self.stage, name="codebook", mixture=MixtureConfig(generation=WARMUP_IMAGES, understanding=0))

        def features_of(index: int) -> Tensor:
            images = self.mixture.batch(only_images, self.seed, index).generation[0].images
            assert images is not None
            return self.target_features(images).flatten(0, 1)

        first = torch.cat([features_of(-index) for index in range(INITIAL_IMAGES // WARMUP_IMAGES)])
        if self.statistics is not None:
            self.statistics.initialise(first)
        if self.vq is not None:
            self.vq.initialise(first, generator)
            for index in range(self.config.representation.warmup_batches):
                features = features_of(1 + index)
                self.vq.update(features, self.vq.assign(features), self.config.representation.warmup_momentum)
        self._keep_targets_alike()

    def _keep_targets_alike(self) -> None:
        """Scattered sums of a GPU round differently from run to run, so the first rank's codebook stands for all."""
        for module in (self.vq, self.statistics):
            if module is not None:
                self.ranks.copy_first_(list(module.buffers()))

    @torch.no_grad()
    def assign_targets(self, batch: PackedBatch) -> list[Tensor] | None:
        """The targets of `compute_losses` for each generation group, assigned over the whole step's features, to which each
        rank adds those of its own samples; moves the codebook or the statistics."""
        if self.target_encoder is None or not batch.generation:
            return None
        images = [own_part(group, self.ranks).images for group in batch.generation]
        features = [self.ranks.gather(self.target_features(own)) for own in images if own is not None]
        flat = torch.cat([item.flatten(0, 1) for item in features])
        if self.vq is not None:
            codes = self.vq.assign(flat)
            self.vq.update(flat, codes)
            self._keep_targets_alike()
            self._recent_codes.append(codes.cpu())
            pieces = codes.split([item.shape[0] * item.shape[1] for item in features])
            return [piece.view(item.shape[:2]) for piece, item in zip(pieces, features, strict=True)]
        assert self.statistics is not None
        self.statistics.update(flat)
        self._keep_targets_alike()
        return [self.continuous_targets(item) for item in features]

    def continuous_targets(self, features: Tensor) -> Tensor:
        """Standardised features as continuous tokens; for REPA centred ones, where the codebook's would be centred too."""
        assert self.statistics is not None
        if self.model.alignment is None:
            return self.statistics.standardise(features)
        return self.statistics.center(features) if self.config.representation.center else features

    # The loop

    def losses(self, step: int) -> StepLosses:
        batch = self.mixture.batch(self.stage, self.seed, step).to(self.device)
        generator = torch.Generator().manual_seed(derive_seed("step", self.stage.name, self.seed, step))
        targets = self.assign_targets(batch)
        terms = compute_losses(
            self.model, self.space, batch, targets, self.config.objective, self.tokens, generator, self.masked_head, self.ranks
        )
        weight = weights(self.config, self.stage)
        counts = torch.tensor([count for _, count in terms.values()])
        self.ranks.sum_([counts])
        means = {name: total / max(count, 1) for (name, (total, _)), count in zip(terms.items(), counts.tolist(), strict=True)}
        loss = torch.stack([weight[name] * mean for name, mean in means.items()]).sum()
        return StepLosses(means, loss, self.model.num_tokens(batch))

    def begin(self) -> None:
        if self.target_encoder is not None:
            self.warm_up_targets()

    def stepped(self, step: int) -> None:
        if self.target_encoder is not None:
            self.target_average.update(self._encoder_masters(), step)
            self.target_encoder.load_state_dict(self.target_average.values)

    def resumed(self) -> None:
        if self.target_encoder is not None:
            self.target_encoder.load_state_dict(self.target_average.values)

    def extra_metrics(self) -> dict[str, float]:
        if not self._recent_codes:
            return {}
        codes, self._recent_codes = torch.cat(self._recent_codes).flatten(), []
        usage, perplexity = usage_and_perplexity(codes, self.config.representation.codebook_size)
        return {"codebook/usage": usage, "codebook/perplexity": perplexity}

    def state(self) -> dict[str, Tensor]:
        """Masters, codebook or statistics, and the target encoder."""
        state: dict[str, Tensor] = dict(self.optimizer.masters)
        for prefix, module in (("vq", self.vq), ("statistics", self.statistics)):
            if module is not None:
                state |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        if self.target_encoder is not None:
            state |= {f"target_encoder.{name}": tensor for name, tensor in self.target_average.values.items()}
        return state
