"""One image: 64 tokens denoised in 25 Euler steps after a prefix of 48 tokens, without guidance.

ours                Sampler.sample of given representation tokens: the prefix once, then 25 passes over the pixels with a cache
ours, recomputed    the same model without a cache: 25 passes over text, representation and pixels
transfusion         transfusion-pytorch's sample_many with the same decoder size: a prompt of 48 tokens read once into a cache,
                    then 25 Euler steps over one modality of 64 tokens of 48 numbers. Its bf16 is autocast's
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from benchmarks.peers import models
from benchmarks.peers.contest import OURS, Contest, Entry, Row, Size, missing
from rf_repro.config.schema import SamplingConfig
from rf_repro.model.inputs import GenerationInput


def compare(size: Size, device: torch.device, dtype: torch.dtype) -> list[Row]:
    contest = Contest(f"denoising one image, {size.steps} steps", "ms/image", dtype, 1, 1e3)
    entries, rows = ours(size, device, dtype), []
    name = "transfusion-pytorch, sample_many"
    if why := missing("transfusion-pytorch"):
        rows.append(contest.left_out(name, why))
    else:
        entries.append(Entry(name, transfusion(size, device, dtype)))
    return contest.run(entries, device, size.repeats) + rows


def ours(size: Size, device: torch.device, dtype: torch.dtype) -> list[Entry]:
    sampling = SamplingConfig(steps=size.steps, cfg_pixel=1.0)
    sampler = models.sampler(size, size.representation, size.pixels, sampling, device, dtype)
    text_ids = torch.arange(size.text, device=device)[None] % size.codes
    codes = torch.arange(size.representation, device=device)[None] % size.codes
    noisy = torch.randn(1, size.pixels, 3 * models.PATCH**2, device=device)

    @torch.no_grad()
    def recomputed() -> None:
        for step in range(size.steps):
            t = torch.full((1,), step / size.steps, device=device)
            sampler.model([GenerationInput(text_ids, noisy, t, codes)], [])

    return [Entry(OURS, lambda: sampler.sample(text_ids, [0], codes)), Entry("ours, recomputed", recomputed)]


def transfusion(size: Size, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    from loguru import logger

    theirs: Any = import_module("transfusion_pytorch.transfusion")
    theirs.tqdm = partial(theirs.tqdm, disable=True)
    logger.disable(theirs.__name__)
    torch.manual_seed(0)
    model = theirs.Transfusion(
        num_text_tokens=size.codes, dim_latent=3 * models.PATCH**2, modality_default_shape=(size.pixels,),
        model_output_clean=True, odeint_kwargs={"method": "euler"},
        transformer={"dim": size.width, "depth": size.layers, "dim_head": size.head_dim, "heads": size.heads,
                     "ff_expansion_factor": 1.5 * size.inner / size.width},
    ).to(device).eval()  # fmt: skip
    prompt = torch.arange(size.text + size.representation, device=device) % size.codes
    calls = []
    model.transformer.register_forward_hook(lambda *_: calls.append(1))

    @torch.no_grad()
    def run() -> None:
        calls.clear()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            (sample,) = model.sample_many(
                [prompt], force_modality_at_start=0, modality_steps=size.steps + 1, cfg_scale=1.0, max_length=size.pixels - 1
            )
        assert sample[-2][1].shape == (size.pixels, 3 * models.PATCH**2)
        assert len(calls) == 1 + size.steps, "the prompt, and a pass a step"

    return run
