"""Training of the model: every stage of every variant, in every world."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rf_repro.compute.compiled import compile_layers, compiles
from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import (
    before_backward,
    checkpoint_activations,
    fill,
    is_sharding,
    layers_of,
    make_mesh,
    materialise,
    on_meta,
    shard,
)
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packing import TextTokens
from rf_repro.model.encoder import MaskedImageHead
from rf_repro.model.encoders import encoder_of
from rf_repro.model.experts import router_metrics
from rf_repro.model.initialise import initial_values
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.representation.kinds import representation_of
from rf_repro.train.data import OwnPack, Tokenizer, TrainingData
from rf_repro.train.ema import Average
from rf_repro.train.loop import StepLosses, TrainingLoop
from rf_repro.train.objective import draw_pack, pack_losses, term_names, weights
from rf_repro.train.optim import MasterOptimizer
from rf_repro.train.start import Start, given_values, take_over
from rf_repro.train.targets import TargetMaker


class Trainer(TrainingLoop):
    """Trains one stage: model, targets (EMA encoder and codebook), optimiser, averages.

    Args:
        stage: the stage of `config` to train.
        data: its samples, as this rank reads them.
        start: the stage before it, or None to start from pretrained weights, where the config names some, and `seed`.
        encoder: weights of an encoder pretrained in-suite, by name, which a first stage starts from.
        space: what generation tokens hold; None: pixels.
        ranks: who train together. Batch and draws are the same for any number of them.

    Raises:
        UserError: more ranks than samples in a step or packs that they do not divide; settings that exclude each other; weights
            that do not fit.
    """

    can_share = True
    model: RFModel

    def __init__(
        self,
        config: ExperimentConfig,
        stage: StageConfig,
        seed: int,
        device: torch.device,
        data: TrainingData,
        tokenizer: Tokenizer,
        start: Start | None = None,
        encoder: Mapping[str, Tensor] | None = None,
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
        self.is_sharded = is_sharding(config.parallel, ranks)
        self._build(tokenizer.vocab_size, start, encoder)
        self._choose_trained(warm_up=start is None or not start.continues)
        if not self.is_sharded:
            for module in self._modules_trained().values():
                module.to(self.dtype)
        self.targets: TargetMaker | None = None
        if (targets := representation_of(config).targets(config)) is not None:
            self.targets = TargetMaker(self.model, targets, self._encoder_masters(), device, self.dtype, ranks)
        self.is_compiled = compiles(config.parallel.compile, stage.steps, device)
        if self.is_compiled:
            compile_layers(self.model.decoder)
        self._has_targets = start is not None and start.continues
        if start is not None and start.continues:
            take_over(start.checkpoint, self.averaged_state(), self.targets.state() if self.targets else {}, ranks)
            self.resumed()

    def _build(self, vocab_size: int, start: Start | None, encoder: Mapping[str, Tensor] | None) -> None:
        """Model and masked-image head, with the values they start from, in float32."""
        config, stage = self.config, self.stage
        with on_meta():  # every matrix is filled below
            self.model = RFModel(config, config.model.decoder.vocab_size or vocab_size)
        self.masked_head: MaskedImageHead | None = None
        if stage.mixture.masked_image:
            self.masked_head = MaskedImageHead(config.model.encoder)
            fill(self.masked_head, initial_values(self.masked_head, self.seed))
            self.masked_head.to(self.device)
        if config.parallel.activation_checkpointing:
            checkpoint_activations(layers_of(self.model))
        if self.is_sharded:
            if self.masked_head is not None:
                raise UserError(f"stages.{stage.name}.mixture.masked_image: cannot be sharded; use parallel.sharding=none")
            shard(self.model, make_mesh(config.parallel, self.ranks, self.device.type), self.dtype)
        materialise(self.model, self.device)
        given = fill(self.model, given_values(self.model, start, encoder, self.ranks))
        fill(self.model, initial_values(self.model, self.seed, given))

    def _modules_trained(self) -> dict[str, nn.Module]:
        return {"model": self.model} | ({"masked_head": self.masked_head} if self.masked_head else {})

    def _choose_trained(self, warm_up: bool) -> None:
        """Optimiser of what the stage trains, copies of the rest, averages of all; `warm_up`: averages start anew."""
        named = {
            name if prefix == "model" else f"{prefix}.{name}": parameter
            for prefix, module in self._modules_trained().items()
            for name, parameter in module.named_parameters()
        }
        trained = {name: p for name, p in named.items() if self.stage.trains == "all" or name.startswith("connector.")}
        # Sharded stages mask no images; an unsharded AdamW knows what is unused from its lack of a gradient.
        unused = encoder_of(self.config.model.encoder).for_masked_images if self.is_sharded else ()
        for name, parameter in named.items():
            parameter.requires_grad_(name in trained and name.removeprefix("encoder.") not in unused)
        self.optimizer = MasterOptimizer(trained, self.config.optim, self.stage, self.dtype, self.ranks)
        copies = {name: p for name, p in named.items() if name not in trained}
        self.frozen = {name: p if self.is_sharded else p.detach().clone() for name, p in copies.items()}
        self.average = Average(self.masters(), self.config.optim.ema_decay, warm_up=warm_up)

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

    # The loop

    def losses(self, step: int) -> Iterable[StepLosses]:
        packs = [OwnPack(pack.batch.to(self.device), pack.generator, pack.ranks) for pack in self.data.packs(step)]
        targets = self.targets.of_step(packs) if self.targets is not None and self.stage.mixture.generation else None
        drawn = [
            draw_pack(self.model, self.space, pack.batch, targets[index] if targets else None, self.config.objective, self.tokens,
                      pack.generator, pack.ranks)
            for index, pack in enumerate(packs)
        ]  # fmt: skip
        names, weight = term_names(self.config, self.stage), weights(self.config, self.stage)
        counts = torch.tensor([sum(one.counts[name] for one in drawn) for name in names])
        self.ranks.sum_([counts])
        for index, (pack, one) in enumerate(zip(packs, drawn, strict=True)):
            sums = pack_losses(self.model, one, self.config.objective, pack.generator, self.masked_head)
            means = {name: sums[name] / max(count, 1) for name, count in zip(names, counts.tolist(), strict=True)}
            total = torch.stack([weight[name] * mean for name, mean in means.items()]).sum()
            is_counted = pack.ranks is ALONE or pack.ranks.is_first  # of a pack that is shared out one rank counts the tokens
            tokens = self.model.num_tokens(pack.batch) if is_counted else 0
            before_backward(self.model, is_last=index + 1 == len(packs))
            yield StepLosses(means, total, tokens)

    def begin(self) -> None:
        if self.targets is not None and not self._has_targets:
            self.targets.warm_up(self.data, self.seed)

    def stepped(self, step: int) -> None:
        if self.targets is not None:
            self.targets.update(self._encoder_masters(), step)

    def resumed(self) -> None:
        if self.targets is not None:
            self.targets.refresh()

    def extra_metrics(self) -> dict[str, float]:
        metrics = router_metrics(self.model)
        if self.targets is not None:
            metrics |= self.targets.values.metrics(self.ranks)
        return metrics | self.data.metrics()

    def extra_state(self) -> dict[str, Any]:
        return self.data.state(self.ranks)

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.data.load_state(state)

    def state(self) -> dict[str, Tensor]:
        """Masters, and the state of targets."""
        return dict(self.optimizer.masters) | (self.targets.state() if self.targets else {})
