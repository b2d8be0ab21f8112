"""A Qwen3 or Qwen3-MoE checkpoint as the backbone of the Mixture-of-Transformers (paper Sec. 3.3, 4.1).

Attention, norms, embeddings and the text head are the checkpoint's. Its feed-forward (dense, or router and experts) becomes
the understanding pool; the other pools start as copies of it, or fresh. Everything is checked from config.json and the
shards' headers before a weight is read: every tensor of the checkpoint is used, every decoder and text parameter filled.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hub import some
from rf_repro.model.hf_checkpoint import DTYPES, HFCheckpoint
from rf_repro.model.rf_model import RFModel
from rf_repro.model.spaces import space_of
from rf_repro.representation.kinds import representation_of

PoolInitialisation = Literal["copy", "random"]
Shape = tuple[int, ...]


def architecture(config: DecoderConfig) -> str:
    """The class of `transformers` that is this decoder with one pool."""
    return "Qwen3MoeForCausalLM" if config.num_experts else "Qwen3ForCausalLM"


@dataclass(frozen=True)
class Entry:
    """One parameter of ours: the checkpoint's `sources`, each of its shape, one after the other in memory."""

    targets: tuple[str, ...]  # parameters of ours that all hold it
    shape: Shape
    sources: tuple[tuple[str, Shape], ...]


def backbone_entries(
    config: DecoderConfig,
    vocab_size: int,
    pools: Sequence[str] = ("understanding",),
    filled: Sequence[str] = ("understanding",),
    fused: bool = False,
    tied: bool = False,
) -> list[Entry]:
    """Our names and Qwen3's.

    Args:
        pools: the model's, each of which has a norm before it.
        filled: those whose feed-forward holds the checkpoint's.
        fused: experts are one tensor a layer, as transformers 5 holds them, else one an expert, as they are published.
        tied: the text head is the embedding.
    """
    D, d, f, num_experts = config.width, config.head_dim, config.ffn_width, config.num_experts
    q, kv = config.num_heads * d, config.num_kv_heads * d
    vocabulary = (vocab_size, D)
    head = "text_head.weight"
    entries = [
        Entry(("text_embedding.weight", *([head] if tied else [])), vocabulary, (("model.embed_tokens.weight", vocabulary),)),
        Entry(("text_norm.weight",), (D,), (("model.norm.weight", (D,)),)),
    ]
    if not tied:
        entries.append(Entry((head,), vocabulary, (("lm_head.weight", vocabulary),)))
    for layer in range(config.num_layers):
        ours, theirs = f"decoder.blocks.{layer}.", f"model.layers.{layer}."

        def one(names: Sequence[str], source: str, shape: Shape, ours: str = ours, theirs: str = theirs) -> Entry:
            return Entry(tuple(ours + name for name in names), shape, ((theirs + source, shape),))

        def joined(
            names: Sequence[str], shape: Shape, sources: Sequence[tuple[str, Shape]], ours: str = ours, theirs: str = theirs
        ) -> Entry:
            return Entry(tuple(ours + name for name in names), shape, tuple((theirs + name, own) for name, own in sources))

        def of_pools(name: str) -> list[str]:
            return [f"pools.{pool}.{name}" for pool in filled]

        heads = [("self_attn.q_proj.weight", (q, D)), ("self_attn.k_proj.weight", (kv, D)), ("self_attn.v_proj.weight", (kv, D))]
        entries += [
            one(["attention_norm.weight"], "input_layernorm.weight", (D,)),
            joined(["attention.qkv.weight"], (q + 2 * kv, D), heads),
            one(["attention.q_norm.weight"], "self_attn.q_norm.weight", (d,)),
            one(["attention.k_norm.weight"], "self_attn.k_norm.weight", (d,)),
            one(["attention.out.weight"], "self_attn.o_proj.weight", (D, q)),
            one([f"ffn_norms.{pool}.weight" for pool in pools], "post_attention_layernorm.weight", (D,)),
        ]
        if not num_experts:
            gate_up = [("mlp.gate_proj.weight", (f, D)), ("mlp.up_proj.weight", (f, D))]
            entries.append(joined(of_pools("gate_up.weight"), (2 * f, D), gate_up))
            entries.append(one(of_pools("down.weight"), "mlp.down_proj.weight", (D, f)))
            continue
        entries.append(one(of_pools("router.weight"), "mlp.gate.weight", (num_experts, D)))
        up_shape, down_shape = (num_experts, 2 * f, D), (num_experts, D, f)
        if fused:
            entries.append(one(of_pools("experts.gate_up"), "mlp.experts.gate_up_proj", up_shape))
            entries.append(one(of_pools("experts.down"), "mlp.experts.down_proj", down_shape))
        else:
            each = [f"mlp.experts.{expert}." for expert in range(num_experts)]
            gate_up = [(f"{expert}{name}_proj.weight", (f, D)) for expert in each for name in ("gate", "up")]
            entries.append(joined(of_pools("experts.gate_up"), up_shape, gate_up))
            down = [(f"{expert}down_proj.weight", (D, f)) for expert in each]
            entries.append(joined(of_pools("experts.down"), down_shape, down))
    return entries


@dataclass(frozen=True)
class LoadReport:
    """What a backbone gave and what it did not."""

    source: str
    architecture: str
    dtype: str  # of the checkpoint; parameters keep their own
    num_tensors: int  # of the checkpoint, all of them used
    num_filled: int  # parameter tensors of ours
    tied: bool  # the checkpoint ties the text head to the embedding; ours is a copy of it
    pools: dict[str, str]  # pool -> "loaded", "copied" or "random"
    new: tuple[str, ...]  # parameters that keep their own initialisation

    def describe(self) -> str:
        """One paragraph for people."""
        kinds = Counter(_kind(name) for name in self.new)
        new = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items())) or "nothing"
        pools = ", ".join(f"{pool} {how}" for pool, how in self.pools.items())
        return (
            f"Backbone {self.architecture} from {self.source}: {self.num_tensors} tensors ({self.dtype}), all used, fill "
            f"{self.num_filled} parameters{', the text head from the tied embedding' if self.tied else ''}. Feed-forward pools: "
            f"{pools}. With their own initialisation: {new}."
        )


class Backbone:
    """A checkpoint that fits a configuration, opened but not yet read."""

    def __init__(self, config: ExperimentConfig, source: str, pool_initialisation: PoolInitialisation) -> None:
        """
        Raises:
            UserError: the checkpoint cannot be had, or does not fit `config.model.decoder`; names every difference.
        """
        decoder = config.model.decoder
        self.checkpoint = HFCheckpoint(source)
        theirs = self.checkpoint.config
        _require_same_model(decoder, theirs, source)
        names = self.checkpoint.names
        self.pools = model_pools(config)
        self.pool_initialisation = pool_initialisation
        self.tied = bool(theirs.get("tie_word_embeddings", False)) and "lm_head.weight" not in names
        self.entries = backbone_entries(
            decoder, theirs["vocab_size"], self.pools, self.pools if pool_initialisation == "copy" else ("understanding",),
            fused=any(name.endswith(".mlp.experts.gate_up_proj") for name in names), tied=self.tied,
        )  # fmt: skip
        self._require_same_tensors()

    def _require_same_tensors(self) -> None:
        checkpoint = self.checkpoint
        expected = {name: shape for entry in self.entries for name, shape in entry.sources}
        present = checkpoint.names & set(expected)
        wrong = [
            f"{name} {list(checkpoint.shape(name))} instead of {list(expected[name])}"
            for name in present if checkpoint.shape(name) != expected[name]
        ]  # fmt: skip
        other = [f"{name} {checkpoint.dtype(name)}" for name in present if checkpoint.dtype(name) not in DTYPES]
        lists = {
            "lacking": set(expected) - checkpoint.names, "not known": checkpoint.names - set(expected),
            "of another shape": wrong, f"of another type than {', '.join(DTYPES)}": other,
        }  # fmt: skip
        problems = [f"{problem}: {some(found)}" for problem, found in lists.items() if found]
        if problems:
            raise UserError(f"{checkpoint.source}: tensors do not fit its config.json ({'; '.join(problems)}); "
                            "use an unchanged, unquantised Qwen3 or Qwen3-MoE checkpoint")  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name of our parameter, tensor in the checkpoint's dtype), one at a time. Pools that hold the same share one tensor:
        copy it, don't keep it."""
        for entry in self.entries:
            tensor = self.checkpoint.read_joined(tuple(name for name, _ in entry.sources), entry.shape)
            for target in entry.targets:
                yield target, tensor

    def report(self, shapes: Mapping[str, Sequence[int]]) -> LoadReport:
        """
        Args:
            shapes: of the model's parameters by name; whole ones, where they are sharded.

        Raises:
            UserError: a tensor has no place in the model, or a decoder or text parameter stays without a value.
        """
        filled = {target: entry.shape for entry in self.entries for target in entry.targets}
        unplaced = [
            f"{name} {list(shape)}, the model has {list(shapes[name]) if name in shapes else 'none'}"
            for name, shape in filled.items() if name not in shapes or tuple(shapes[name]) != shape
        ]  # fmt: skip
        new = tuple(name for name in shapes if name not in filled)
        empty = [name for name in new if not self._may_be_new(name)]
        if unplaced or empty:
            raise UserError(
                f"{self.checkpoint.source}: does not fit the model: without a place {some(unplaced)}; without a value "
                f"{some(empty)}; set model.decoder to the checkpoint's sizes"
            )
        others = "copied" if self.pool_initialisation == "copy" else "random"
        dtypes = Counter(self.checkpoint.dtype(name) for name in self.checkpoint.names)
        return LoadReport(
            source=self.checkpoint.source, architecture=self.checkpoint.config["architectures"][0],
            dtype=" and ".join(sorted(dtypes)), num_tensors=len(self.checkpoint.names), num_filled=len(filled), tied=self.tied,
            pools={pool: "loaded" if pool == "understanding" else others for pool in self.pools}, new=new,
        )  # fmt: skip

    def _may_be_new(self, name: str) -> bool:
        if not name.startswith(("decoder.", "text_")):
            return True
        if self.pool_initialisation == "random" and (".pools.pixel." in name or ".pools.representation." in name):
            return True
        return ".modulation." in name


def backbone_tensors(
    config: ExperimentConfig, source: str, pool_initialisation: PoolInitialisation
) -> Iterator[tuple[str, Tensor]]:
    """The parameters that a checkpoint fills, streamed; it is checked at the call. See `Backbone`."""
    return Backbone(config, source, pool_initialisation).tensors()


@torch.no_grad()
def load_backbone(model: RFModel, source: str, pool_initialisation: PoolInitialisation) -> LoadReport:
    """Fills a model's attention, pools, norms, embedding and text head from a checkpoint, in the parameters' own dtype.

    Args:
        source: a folder or hub id of a Qwen3 or Qwen3-MoE checkpoint in safetensors.
        pool_initialisation: "copy": the representation and pixel pools are copies of the understanding pool; "random": they
            keep their values. The norms before them are copies either way.

    Raises:
        UserError: the checkpoint cannot be had or does not fit; the model is then as it was.
    """
    backbone = Backbone(model.config, source, pool_initialisation)
    parameters = dict(model.named_parameters())
    report = backbone.report({name: parameter.shape for name, parameter in parameters.items()})
    for name, tensor in backbone.tensors():
        parameters[name].copy_(tensor)
    return report


def model_pools(config: ExperimentConfig) -> tuple[str, ...]:
    """The pools that an RFModel of this configuration has."""
    pixel = ("pixel",) if space_of(config.model).generates else ()
    representation = ("representation",) if representation_of(config).has_tokens else ()
    return ("understanding", *representation, *pixel)


def _require_same_model(config: DecoderConfig, theirs: Mapping[str, Any], source: str) -> None:
    """Compares with config.json, all fields at once."""
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    rope = rope if isinstance(rope, dict) else {"rope_type": rope}
    fields = {  # of ours -> (our value, name in config.json)
        "width": (config.width, "hidden_size"),
        "num_layers": (config.num_layers, "num_hidden_layers"),
        "num_heads": (config.num_heads, "num_attention_heads"),
        "num_kv_heads": (config.num_kv_heads, "num_key_value_heads"),
        "head_dim": (config.head_dim, "head_dim"),
        "ffn_width": (config.ffn_width, "moe_intermediate_size" if config.num_experts else "intermediate_size"),
        "norm_eps": (config.norm_eps, "rms_norm_eps"),
    }
    compared = {name: (ours, key, theirs.get(key)) for name, (ours, key) in fields.items()}
    compared["rope_theta"] = (config.rope_theta, "rope_theta", rope.get("rope_theta", theirs.get("rope_theta")))
    if config.vocab_size:
        compared["vocab_size"] = (config.vocab_size, "vocab_size", theirs.get("vocab_size"))
    if config.num_experts:
        counted = theirs.get("num_experts", theirs.get("num_local_experts"))
        compared["num_experts"] = (config.num_experts, "num_experts", counted)
        compared["num_active_experts"] = (config.num_active_experts, "num_experts_per_tok", theirs.get("num_experts_per_tok"))
    problems = [f"{name}={ours!r} ({key}={value!r})" for name, (ours, key, value) in compared.items() if ours != value]

    # What Qwen3's code can do beside, and ours cannot; the second is transformers' default.
    supported: list[tuple[str, object, object]] = [
        ("architectures", theirs.get("architectures"), [architecture(config)]),
        ("hidden_act", theirs.get("hidden_act", "silu"), "silu"),
        ("attention_bias", theirs.get("attention_bias", False), False),
        ("use_sliding_window", theirs.get("use_sliding_window", False), False),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
        ("quantization_config", theirs.get("quantization_config"), None),
    ]
    if config.num_experts:
        supported += [
            ("norm_topk_prob", theirs.get("norm_topk_prob", False), True),
            ("decoder_sparse_step", theirs.get("decoder_sparse_step", 1), 1),
            ("mlp_only_layers", theirs.get("mlp_only_layers") or [], []),
        ]
    problems += [f"{key}={value!r}, only {allowed!r} is supported" for key, value, allowed in supported if value != allowed]
    if not isinstance(theirs.get("vocab_size"), int) or theirs["vocab_size"] < 1:
        problems.append(f"vocab_size={theirs.get('vocab_size')!r}, no number of tokens")
    if problems:
        raise UserError(
            f"model.decoder does not fit {source}: {'; '.join(problems)}; set model.decoder to the checkpoint's values or choose "
            "another checkpoint"
        )


def _kind(name: str) -> str:
    """What a report calls a parameter that is new."""
    if ".modulation." in name:
        return "modulation"
    return f"{name.split('.')[4]} pool" if ".pools." in name else name.split(".")[0]
