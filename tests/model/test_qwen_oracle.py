"""With one pool the Mixture-of-Transformers is Qwen3: same logits as `transformers` on the same random weights."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from rf_repro.config.model_schema import DecoderConfig
from rf_repro.maths.layers import RMSNorm
from rf_repro.model.attention import make_context
from rf_repro.model.experts import FeedForward, SparseFeedForward
from rf_repro.model.layout import POOLS, Group, PackedLayout, SampleLayout, Span
from rf_repro.model.mot import MixtureOfTransformers
from tests.model.small import largest_difference, small_model

transformers = pytest.importorskip("transformers")

VOCAB, B, T = 41, 3, 9
TOLERANCE = 2e-5  # of logits of order one, fp32
DENSE = DecoderConfig(
    width=32, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=10, ffn_width=44, rope_theta=7e3, norm_eps=3e-5
)
SPARSE = DecoderConfig(
    width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=20, num_experts=6, num_active_experts=2
)  # fmt: skip


def qwen(config: DecoderConfig) -> nn.Module:
    """The `transformers` model of those sizes, every weight random (norms too)."""
    common = {
        "vocab_size": VOCAB, "hidden_size": config.width, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps, "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": False, "attention_bias": False, "max_position_embeddings": 64, "attn_implementation": "eager",
    }  # fmt: skip
    torch.manual_seed(0)
    if config.num_experts:
        model = transformers.Qwen3MoeForCausalLM(
            transformers.Qwen3MoeConfig(
                **common, num_experts=config.num_experts, num_experts_per_tok=config.num_active_experts, norm_topk_prob=True,
                moe_intermediate_size=config.ffn_width, intermediate_size=config.ffn_width, decoder_sparse_step=1,
            )
        )  # fmt: skip
    else:
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common, intermediate_size=config.ffn_width))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2) + (parameter.ndim == 1))
    return model.eval()


@torch.no_grad()
def copy_weights(decoder: MixtureOfTransformers, theirs: Mapping[str, Tensor]) -> None:
    """Qwen3's names to ours; every one of their layer weights must be used."""
    used = set()

    def take(name: str) -> Tensor:
        used.add(name)
        return theirs[name]

    for index, block in enumerate(decoder.blocks):
        prefix = f"model.layers.{index}."
        block.attention_norm.weight.copy_(take(prefix + "input_layernorm.weight"))
        block.ffn_norms["understanding"].weight.copy_(take(prefix + "post_attention_layernorm.weight"))
        block.attention.qkv.weight.copy_(torch.cat([take(f"{prefix}self_attn.{name}_proj.weight") for name in "qkv"]))
        block.attention.out.weight.copy_(take(prefix + "self_attn.o_proj.weight"))
        block.attention.q_norm.weight.copy_(take(prefix + "self_attn.q_norm.weight"))
        block.attention.k_norm.weight.copy_(take(prefix + "self_attn.k_norm.weight"))
        pool = block.pools["understanding"]
        if isinstance(pool, SparseFeedForward):
            pool.router.weight.copy_(take(prefix + "mlp.gate.weight"))
            pool.experts.gate_up.copy_(take(prefix + "mlp.experts.gate_up_proj"))
            pool.experts.down.copy_(take(prefix + "mlp.experts.down_proj"))
        else:
            pool.gate_up.weight.copy_(torch.cat([take(f"{prefix}mlp.{name}_proj.weight") for name in ("gate", "up")]))
            pool.down.weight.copy_(take(prefix + "mlp.down_proj.weight"))
    assert used == {name for name in theirs if name.startswith("model.layers.")}


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"])
@torch.no_grad()
def test_one_pool_equals_qwen3(config: DecoderConfig) -> None:
    theirs = qwen(config)
    weights = theirs.state_dict()
    decoder = MixtureOfTransformers(config, ["understanding"])
    copy_weights(decoder, weights)
    norm = RMSNorm(config.width, config.norm_eps)
    norm.weight.copy_(weights["model.norm.weight"])

    ids = torch.randint(VOCAB, (B, T), generator=torch.Generator().manual_seed(1))
    expected = theirs(input_ids=ids).logits
    packed = PackedLayout((Group(SampleLayout((Span("text", T),)), B),))
    hidden, _, _ = decoder(weights["model.embed_tokens.weight"][ids].flatten(0, 1), packed)
    logits = (norm(hidden) @ weights["lm_head.weight"].T).view(B, T, VOCAB)
    scale = float(expected.abs().max())
    assert largest_difference(logits / scale, expected / scale) < TOLERANCE
    assert float(expected.std() / scale) > 0.05  # the comparison has something to compare


@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
@torch.no_grad()
def test_three_identical_pools_equal_one(config: DecoderConfig) -> None:
    """Tokens of three types through three copies of one pool, against one pool that all tokens go through."""
    torch.manual_seed(0)
    three = MixtureOfTransformers(config, POOLS)
    for block in three.blocks:
        for pool in ("representation", "pixel"):
            block.pools[pool].load_state_dict(block.pools["understanding"].state_dict())
            block.ffn_norms[pool].load_state_dict(block.ffn_norms["understanding"].state_dict())
        block.modulation.weight.zero_()  # as initialised: a fresh generation pathway changes nothing
        block.modulation.bias.zero_()
    one = MixtureOfTransformers(config, ["understanding"])
    state = {name: tensor for name, tensor in three.state_dict().items() if name in one.state_dict()}
    one.load_state_dict(state)

    spans = (Span("text", 5), Span("representation", 5, (2, 2)), Span("pixel", 16, (4, 4)))
    packed = PackedLayout((Group(SampleLayout(spans), 2),))
    x = torch.randn(packed.num_tokens, config.width)
    time = torch.randn(2, config.width)
    expected = x
    context = make_context(packed, config, torch.float32, x.device)
    for block in one.blocks:  # the dense block: attention, then the one feed-forward on every token
        expected = expected + block.attention(block.attention_norm(expected), context, None, False)
        fed = block.pools["understanding"](block.ffn_norms["understanding"](expected))
        expected = expected + (fed[0] if isinstance(fed, tuple) else fed)
    assert largest_difference(three(x, packed, time)[0], expected) < TOLERANCE
    three.blocks[0].modulation.bias.fill_(0.5)
    moved = (three(x, packed, time)[0] - expected).abs().amax(1)
    assert bool((moved[packed.rows("pixel", 0)] > 1e-3).all())
    assert bool((moved[: packed.rows("pixel", 0).start] < TOLERANCE).all())  # time touches pixel tokens alone


@torch.no_grad()
def test_modulation_scales_and_shifts_each_sample_by_its_own_time() -> None:
    model = small_model()
    block = model.decoder.blocks[0]
    both, alone = (Span("text", 2), Span("pixel", 4, (2, 2))), (Span("pixel", 9, (3, 3)),)
    packed = PackedLayout((Group(SampleLayout(both), 2), Group(SampleLayout(alone), 1)))
    x, time = torch.randn(packed.num_tokens, 32), torch.randn(3, 32)
    context = make_context(packed, model.config.model.decoder, torch.float32, x.device)
    out, _ = block(x, context, time, None, False)
    ids = packed.visibility[0]
    pixels = slice(packed.num_tokens - packed.pool_sizes[2], None)
    parts = block.modulation(time).view(3, 6, 32)[ids[pixels]]  # of each pixel token: scale, shift, gate, scale, shift, gate

    def modulated(h: Tensor, first: int, shift: bool) -> Tensor:
        h = h.clone()
        h[pixels] = (1 + parts[:, first]) * h[pixels] + (parts[:, first + 1] if shift else 0)
        return h

    attended = block.attention(modulated(block.attention_norm(x), 0, True), context, None, False)
    middle = x + modulated(attended, 2, False)
    norms = {pool: block.ffn_norms[pool] for pool in POOLS}
    sizes, start, normed, pools = packed.pool_sizes, 0, middle.clone(), []
    for pool, size in zip(POOLS, sizes, strict=True):
        normed[start : start + size] = norms[pool](middle[start : start + size])
        pools += [pool] * size
        start += size
    normed = modulated(normed, 3, True)
    fed = torch.stack([block.pools[pool](row[None])[0] for pool, row in zip(pools, normed, strict=True)])
    assert largest_difference(out, middle + modulated(fed, 5, False)) < TOLERANCE


@torch.no_grad()
def test_feed_forward_is_swiglu_with_the_gate_first() -> None:
    torch.manual_seed(0)
    ffn, x = FeedForward(6, 5), torch.randn(4, 6)
    gate, up = ffn.gate_up.weight[:5] @ x.T, ffn.gate_up.weight[5:] @ x.T
    assert largest_difference(ffn(x), (ffn.down.weight @ (gate * torch.sigmoid(gate) * up)).T) < 1e-6
