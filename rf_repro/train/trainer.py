"""Training of the model: every stage of every variant."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import (
    before_backward,
    checkpoint_activations,
    copy_part_,
    fill,
    is_sharding,
    layers_of,
    make_mesh,
    materialise,
    on_meta,
    shard,
    whole_tensors,
)
from rf_repro.config.schema import ExperimentConfig, MixtureConfig, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import PackedBatch, TextTokens
from rf_repro.data.scenes.mixture import SceneMixture
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.maths.layers import pool_2x2
from rf_repro.model.encoder import MaskedImageHead, VisionTransformer
from rf_repro.model.experts import router_metrics
from rf_repro.model.initialise import initial_values, starting_values
from rf_repro.model.rf_model import RFModel, build_encoder
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.representation.alignment import resize_grid
from rf_repro.representation.continuous import FeatureStatistics
from rf_repro.representation.vq import OnlineVQ, usage_and_perplexity
from rf_repro.train.checkpoint import stream_weights
from rf_repro.train.ema import Average
from rf_repro.train.loop import StepLosses, TrainingLoop
from rf_repro.train.objective import draw_pack, own_part, pack_losses, term_names, weights
from rf_repro.train.optim import MasterOptimizer

if TYPE_CHECKING:
    from rf_repro.data.image_text import ImageTextData, Pack
    from rf_repro.data.text_tokenizer import ImageTextTokenizer
    from rf_repro.model.pretrained_encoder import PretrainedEncoder

WARMUP_IMAGES = 128  # in each codebook warm-up batch
INITIAL_IMAGES = 2048  # whose features the prototypes are drawn from
INITIAL_STEPS = 8  # of real data at most, from which the prototypes are drawn


@dataclass(frozen=True)
class Start:
    """A checkpoint of the stage before.

    Attributes:
        continues: whether that is an earlier stage of the same variant, whose weights, averages, codebook and target encoder go
            on; otherwise it is a shared stage, whose averaged weights the variant starts from.
    """

    checkpoint: Path
    continues: bool = False


class Trainer(TrainingLoop):
    """Trains one stage: model, targets (EMA encoder and codebook), optimiser, averages.

    Args:
        stage: the stage of `config` to train.
        data: the scenes world's samples, of which the ranks share out each step's; or this rank's packs of real data.
        start: the stage before it, or None to start from pretrained weights, where the config names some, and `seed`.
        encoder: weights of an encoder pretrained in-suite, by name, which a first stage starts from.
        space: what generation tokens hold; None: pixels.
        ranks: who train together. Batch and draws are the same for any number of them.

    Raises:
        UserError: more ranks than samples in a step or packs that they do not divide; settings that exclude each other; weights
            that do not fit.
    """

    can_share = True

    def __init__(
        self,
        config: ExperimentConfig,
        stage: StageConfig,
        seed: int,
        device: torch.device,
        data: "SceneMixture | ImageTextData",
        tokenizer: "SceneTokenizer | ImageTextTokenizer",
        start: Start | None = None,
        encoder: dict[str, Tensor] | None = None,
        space: ImageSpace | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if 0 < stage.mixture.generation < ranks.size and not stage.packs_per_step:
            raise UserError(
                f"stages.{stage.name}.mixture.generation={stage.mixture.generation}: fewer samples a step than the {ranks.size} "
                f"ranks; start at most {stage.mixture.generation}, or raise it"
            )
        super().__init__(config, stage, seed, device, ranks=ranks)
        self.data = data
        self.tokens = TextTokens(tokenizer.pad_id, tokenizer.bos_id, tokenizer.null_id)
        self.space: ImageSpace = PixelSpace(config.model.pixel.patch_size) if space is None else space
        self._recent_codes: list[Tensor] = []  # since the last row of metrics
        self._recent_packs: list[Pack] = []
        self._positions: list[dict[str, Any]] | None = None  # of this rank's data streams, after the last step
        self._steps: Iterator[list[Pack]] | None = None

        sharded, dtype = is_sharding(config.parallel, ranks), self.dtype
        with on_meta():  # every matrix is filled below
            self.model = RFModel(config, config.model.decoder.vocab_size or tokenizer.vocab_size)
        self.masked_head: MaskedImageHead | None = None
        if stage.mixture.masked_image:
            self.masked_head = MaskedImageHead(config.model.encoder)
            fill(self.masked_head, initial_values(self.masked_head, seed))
            self.masked_head.to(device)
        modules: dict[str, nn.Module] = {"model": self.model} | ({"masked_head": self.masked_head} if self.masked_head else {})
        if config.parallel.activation_checkpointing:
            checkpoint_activations(layers_of(self.model))
        if sharded:
            if self.masked_head is not None:
                raise UserError(f"stages.{stage.name}.mixture.masked_image: cannot be sharded; use parallel.sharding=none")
            shard(self.model, make_mesh(config.parallel, ranks, device.type), dtype)
        materialise(self.model, device)
        given = fill(self.model, self._given_values(start, encoder))
        fill(self.model, initial_values(self.model, seed, given))

        named = {
            name if prefix == "model" else f"{prefix}.{name}": parameter
            for prefix, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        trained = {name: p for name, p in named.items() if stage.trains == "all" or name.startswith("connector.")}
        for name, parameter in named.items():
            unused = sharded and name == "encoder.mask_token"  # which unsharded AdamW knows from its lack of a gradient
            parameter.requires_grad_(name in trained and not unused)
        self.optimizer = MasterOptimizer(trained, config.optim, stage, dtype, ranks)
        copies = {name: p for name, p in named.items() if name not in trained}
        self.frozen = {name: p if sharded else p.detach().clone() for name, p in copies.items()}
        continues = start is not None and start.continues
        self.average = Average(self.masters(), config.optim.ema_decay, warm_up=not continues)
        if not sharded:
            for module in modules.values():
                module.to(dtype)

        self.vq: OnlineVQ | None = None  # of discrete tokens
        self.statistics: FeatureStatistics | None = None  # of continuous tokens, and of REPA's features
        self.target_encoder: VisionTransformer | PretrainedEncoder | None = None
        if config.representation.kind != "none":
            self.target_average = Average(self._encoder_masters(), config.model.encoder.target_ema_decay, warm_up=False)
            self.target_encoder = (
                build_encoder(config.model.encoder, config.max_image_size).to(device, dtype).requires_grad_(False)
            )
            self._refresh_target_encoder()
            if config.representation.kind == "discrete":
                self.vq = OnlineVQ(config.representation, config.model.encoder.width).to(device)
            else:
                self.statistics = FeatureStatistics(config.model.encoder.width).to(device)
        self._has_targets = False
        if start is not None and start.continues:
            self._continue(start.checkpoint)

    def _given_values(self, start: Start | None, encoder: dict[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        """Parameters that do not start from the seed, by name, later ones over earlier ones."""
        config = self.config
        if encoder is not None:
            yield from ((f"encoder.{name}", tensor) for name, tensor in encoder.items())
        if start is not None:
            stream = stream_weights(start.checkpoint, not start.continues, self.ranks)
            own = dict(self.model.named_parameters())
            yield from starting_values(self.model, (item for item in stream if not start.continues or item[0] in own))
            return
        if config.model.encoder.pretrained:
            from rf_repro.model.pretrained_encoder import PretrainedEncoder, read_encoder_weights

            assert isinstance(self.model.encoder, PretrainedEncoder)
            weights = read_encoder_weights(self.model.encoder, config.model.encoder.pretrained)
            yield from ((f"encoder.{name}", tensor) for name, tensor in weights.items())
        if config.model.decoder.pretrained:
            from rf_repro.model.hf_weights import Backbone

            decoder = config.model.decoder
            backbone = Backbone(config, decoder.pretrained, decoder.pool_initialisation)
            shapes = {name: p.shape for name, p in self.model.named_parameters() if not name.startswith("encoder.")}
            report = backbone.report(shapes)
            if self.ranks.is_first:
                print(report.describe())
            yield from backbone.tensors()

    @torch.no_grad()
    def _continue(self, checkpoint: Path) -> None:
        """Takes averages, codebook or statistics, and the target encoder from the variant's stage before."""
        targets = {name: tensor for name, tensor in self.state().items() if name not in self.optimizer.masters}
        for own, ema in ((self.averaged_state(), True), (targets, False)):
            left = set(own)
            for name, tensor in stream_weights(checkpoint, ema, self.ranks):
                if name in own:
                    copy_part_(own[name], tensor)
                    left.discard(name)
            if left:
                raise UserError(f"{checkpoint}: the stage before lacks {', '.join(sorted(left)[:3])}; train it again")
        self._has_targets = True
        if self.target_encoder is not None:
            self._refresh_target_encoder()

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

    def _refresh_target_encoder(self) -> None:
        """Copies the averaged weights, of which sharded ranks hold parts, into the encoder that makes targets."""
        assert self.target_encoder is not None
        fill(self.target_encoder, whole_tensors(self.target_average.values))

    @torch.no_grad()
    def target_features(self, images: list[Tensor]) -> list[Tensor]:
        """Features of the EMA encoder before its final norm (Sec. 3.1), float32, of batches of images: pooled [B, N, F], or on
        the generation tokens' grid [B, P, F] where they are aligned with."""
        assert self.target_encoder is not None
        features, result = self.target_encoder.encode([batch.to(self.device, self.dtype) for batch in images]), []
        for batch, own in zip(images, features, strict=True):
            size = (batch.shape[2], batch.shape[3])
            patch = self.config.model.encoder.patch_size
            grid = (size[0] // patch, size[1] // patch)
            if self.model.alignment is not None:
                result.append(resize_grid(own.float(), grid, self.model.pixel_grid(size)))
            else:
                result.append(pool_2x2(own, grid).float())
        return result

    @torch.no_grad()
    def warm_up_targets(self) -> None:
        """Statistics, or prototypes, from the features of the first images; then codebook-only updates (assumed; the updates in
        the scenes world alone)."""
        generator = torch.Generator().manual_seed(derive_seed("codebook", self.seed))
        if not isinstance(self.data, SceneMixture):
            self._initialise_targets(self._first_features(), generator)
            return
        data = self.data
        only_images = replace(self.stage, name="codebook", mixture=MixtureConfig(generation=WARMUP_IMAGES, understanding=0))

        def features_of(index: int) -> Tensor:
            """The share of this rank."""
            group = own_part(data.batch(only_images, self.seed, index).generation[0], self.ranks)
            assert group.images is not None
            return self.target_features([group.images])[0].flatten(0, 1)

        # Batch by batch, so that the rows stand in the same order for any number of ranks.
        first = [self.ranks.gather(features_of(-index)) for index in range(INITIAL_IMAGES // WARMUP_IMAGES)]
        self._initialise_targets(torch.cat(first), generator)
        if self.vq is not None:
            for index in range(self.config.representation.warmup_batches):
                features = features_of(1 + index)
                momentum = self.config.representation.warmup_momentum
                self.vq.update(features, self.vq.assign(features, self.ranks), momentum, self.ranks)
        self._keep_targets_alike()

    def _first_features(self) -> Tensor:
        """Of the first steps' generated images, of all ranks, in the order of their streams: at least as many as codes, if eight
        steps have them."""
        assert not isinstance(self.data, SceneMixture)
        found, count = [], 0
        for index, packs in enumerate(self.data.steps(None)):
            images = [group.images for pack in packs for group in pack.batch.generation]
            features = self.target_features([batch for batch in images if batch is not None])
            rows = [item.flatten(0, 1) for item in features]
            own = torch.cat(rows) if rows else torch.zeros(0, self.config.model.encoder.width, device=self.device)
            found.append(self.ranks.gather(own))
            count += len(found[-1])
            if count >= self.config.representation.codebook_size or index + 1 == INITIAL_STEPS:
                break
        if not count:
            raise UserError(f"data.sources: no image to generate in the first {INITIAL_STEPS} steps; add a source of that task")
        return torch.cat(found)

    def _initialise_targets(self, features: Tensor, generator: torch.Generator) -> None:
        if self.statistics is not None:
            self.statistics.initialise(features)
        if self.vq is not None:
            self.vq.initialise(features, generator)
        self._keep_targets_alike()

    def _keep_targets_alike(self) -> None:
        """Scattered sums of a GPU round differently from run to run, so the first rank's codebook stands for all."""
        for module in (self.vq, self.statistics):
            if module is not None:
                self.ranks.copy_first_(list(module.buffers()))

    @torch.no_grad()
    def assign_targets(self, batches: list[PackedBatch]) -> list[list[Tensor]] | None:
        """For each pack the targets of this rank's samples of each generation group, assigned over the whole step's features of
        all ranks; moves the codebook or the statistics. Without targets None."""
        if self.target_encoder is None or not self.stage.mixture.generation:
            return None
        images = [group.images for batch in batches for group in batch.generation if group.images is not None]
        features = self.target_features(images)
        empty = torch.zeros(0, self.config.model.encoder.width, device=self.device)
        flat = torch.cat([empty, *(item.flatten(0, 1) for item in features)])
        if self.vq is not None:
            codes = self.vq.assign(flat, self.ranks)
            self.vq.update(flat, codes, ranks=self.ranks)
            self._recent_codes.append(codes)
            pieces = codes.split([item.shape[0] * item.shape[1] for item in features]) if features else ()
            targets = [piece.view(item.shape[:2]) for piece, item in zip(pieces, features, strict=True)]
        else:
            assert self.statistics is not None
            self.statistics.update(flat, self.ranks)
            targets = [self.continuous_targets(item) for item in features]
        self._keep_targets_alike()
        found = iter(targets)
        return [[next(found) for _ in batch.generation] for batch in batches]

    def continuous_targets(self, features: Tensor) -> Tensor:
        """Standardised features as continuous tokens; for REPA centred ones, where the codebook's would be centred too."""
        assert self.statistics is not None
        if self.model.alignment is None:
            return self.statistics.standardise(features)
        return self.statistics.center(features) if self.config.representation.center else features

    # The loop

    def _own_batches(self, step: int) -> list[tuple[PackedBatch, torch.Generator, Ranks]]:
        """This rank's packs of the step, with what draws for each, and the ranks that share it out."""
        if isinstance(self.data, SceneMixture):
            seed = derive_seed("step", self.stage.name, self.seed, step)
            return [(self.data.batch(self.stage, self.seed, step), torch.Generator().manual_seed(seed), self.ranks)]
        if self._steps is None:
            self._steps = self.data.steps(self._positions)
        packs = next(self._steps)
        self._recent_packs += packs
        self._positions = [pack.position for pack in packs]
        batches = []
        for stream, pack in zip(self.data.streams, packs, strict=True):
            seed = derive_seed("step", self.stage.name, self.seed, step, stream)
            batches.append((pack.batch, torch.Generator().manual_seed(seed), ALONE))
        return batches

    def losses(self, step: int) -> Iterable[StepLosses]:
        own = [(batch.to(self.device), generator, ranks) for batch, generator, ranks in self._own_batches(step)]
        mine = [replace(batch, generation=tuple(own_part(group, ranks) for group in batch.generation)) for batch, _, ranks in own]
        targets = self.assign_targets(mine)
        drawn = [
            draw_pack(self.model, self.space, batch, targets[index] if targets else None, self.config.objective, self.tokens,
                      generator, ranks)
            for index, (batch, generator, ranks) in enumerate(own)
        ]  # fmt: skip
        names, weight = term_names(self.config, self.stage), weights(self.config, self.stage)
        counts = torch.tensor([sum(one.counts[name] for one in drawn) for name in names])
        self.ranks.sum_([counts])
        for index, ((batch, generator, ranks), one) in enumerate(zip(own, drawn, strict=True)):
            sums = pack_losses(self.model, one, self.config.objective, generator, self.masked_head)
            means = {name: sums[name] / max(count, 1) for name, count in zip(names, counts.tolist(), strict=True)}
            total = torch.stack([weight[name] * mean for name, mean in means.items()]).sum()
            is_counted = ranks is ALONE or ranks.is_first  # of a pack that is shared out one rank counts the tokens
            tokens = self.model.num_tokens(batch) if is_counted else 0
            before_backward(self.model, is_last=index + 1 == len(own))
            yield StepLosses(means, total, tokens)

    def begin(self) -> None:
        if self.target_encoder is not None and not self._has_targets:
            self.warm_up_targets()

    def stepped(self, step: int) -> None:
        if self.target_encoder is not None:
            self.target_average.update(self._encoder_masters(), step)
            self._refresh_target_encoder()

    def resumed(self) -> None:
        if self.target_encoder is not None:
            self._refresh_target_encoder()

    def extra_metrics(self) -> dict[str, float]:
        metrics = router_metrics(self.model)
        if self.vq is not None:
            codes, self._recent_codes = torch.cat(self._recent_codes).flatten(), []
            usage, perplexity = usage_and_perplexity(codes, self.config.representation.codebook_size, self.ranks)
            metrics |= {"codebook/usage": usage, "codebook/perplexity": perplexity}
        if not isinstance(self.data, SceneMixture):
            from rf_repro.data.image_text import metrics as pack_metrics

            packs, self._recent_packs = self._recent_packs, []
            metrics |= pack_metrics(packs)
        return metrics

    def extra_state(self) -> dict[str, Any]:
        """Where each stream of real data stands, of all ranks in their order."""
        if isinstance(self.data, SceneMixture):
            return {}
        return {"positions": list(chain.from_iterable(self.ranks.gather_objects(self._positions or [])))}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        if not isinstance(self.data, SceneMixture):
            self._positions = [state["positions"][stream] for stream in self.data.streams]

    def state(self) -> dict[str, Tensor]:
        """Masters, codebook or statistics, and the target encoder."""
        state: dict[str, Tensor] = dict(self.optimizer.masters)
        for prefix, module in (("vq", self.vq), ("statistics", self.statistics)):
            if module is not None:
                state |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        if self.target_encoder is not None:
            state |= {f"target_encoder.{name}": tensor for name, tensor in self.target_average.values.items()}
        return state
