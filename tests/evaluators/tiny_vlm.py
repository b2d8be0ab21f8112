"""Vision-language models of Qwen's and InternVL's kinds, random weights and a tokenizer of their own, saved as published ones."""

from pathlib import Path
from typing import Any, Literal

from tests.data.tiny_tokenizer import SPECIAL, tiny_tokenizer

Kind = Literal["qwen2_5_vl", "qwen3_vl", "internvl"]
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
INTERNVL = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
}  # fmt: skip
# The form of Qwen2.5-VL's and Qwen3-VL's: parts in their order, an image framed by vision tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERNVL_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
PATCH = 4  # pixels; 2 x 2 patches are a token


def save_tiny_vlm(folder: Path, kind: Kind = "qwen2_5_vl", seed: int = 0) -> Path:
    """Writes it, 0.2 MB; the same bytes for the same seed. Images have at most 64 tokens of 8 x 8 pixels (InternVL: 4 a tile,
    of which there are at most 4)."""
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    named = INTERNVL if kind == "internvl" else {}
    tokenizer = tiny_tokenizer(special=(*SPECIAL, IMAGE_PAD, VIDEO_PAD, *named.values()))
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )
    end, pad = (words.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>"))
    torch.manual_seed(seed)
    model = _model(kind, words)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))  # far enough from its start that answers depend on images
            if ("visual.merger" in name or "multi_modal_projector" in name) and parameter.dim() > 1:
                parameter.mul_(3)
        model.lm_head.weight[end] *= -4 if kind == "internvl" else 2.5  # so that some answers end
    # What published models bring along, and a greedy evaluation must not obey.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, repetition_penalty=1.3, eos_token_id=[end], pad_token_id=pad
    )
    model.save_pretrained(folder)
    _processor(kind, words).save_pretrained(folder)
    return folder


def _model(kind: Kind, words: Any) -> Any:
    """As its class initialises it."""
    import transformers

    ids = {name: words.convert_tokens_to_ids(name) for name in (*SPECIAL, IMAGE_PAD, VIDEO_PAD)}
    text: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 4096, "eos_token_id": ids["<|im_end|>"], "pad_token_id": None,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": PATCH, "temporal_patch_size": 2,
        "spatial_merge_size": 2, "out_hidden_size": 32,
    }  # fmt: skip
    whole = {
        "image_token_id": ids[IMAGE_PAD], "video_token_id": ids[VIDEO_PAD], "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    if kind == "qwen2_5_vl":
        config = transformers.Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={**vision, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]},
            **whole,
        )
        return transformers.Qwen2_5_VLForConditionalGeneration(config)
    if kind == "internvl":
        return transformers.InternVLForConditionalGeneration(
            transformers.InternVLConfig(
                text_config={**text, "model_type": "qwen2"},
                vision_config={
                    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "patch_size": PATCH, "image_size": 4 * PATCH,
                },
                image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
            )
        )  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config={**text, "head_dim": 16, "rope_parameters": {**rope, "mrope_interleaved": True}},
        vision_config={**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **whole,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def _processor(kind: Kind, words: Any) -> Any:
    """Of text and images; see `save_tiny_vlm` for sizes."""
    import transformers
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    sizes = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 64 * (2 * PATCH) ** 2}  # pixels in all
    pixels = Qwen2VLImageProcessor(patch_size=PATCH, size=sizes)
    if kind == "internvl":
        size = {"height": 4 * PATCH, "width": 4 * PATCH}
        return transformers.InternVLProcessor(
            GotOcr2ImageProcessor(size=size, max_patches=3), words, InternVLVideoProcessor(size=size), image_seq_length=4,
            chat_template=INTERNVL_TEMPLATE,
        )  # fmt: skip
    if kind == "qwen2_5_vl":
        return transformers.Qwen2_5_VLProcessor(
            pixels, words, Qwen2VLVideoProcessor(patch_size=PATCH, size=sizes), chat_template=CHAT_TEMPLATE
        )
    return transformers.Qwen3VLProcessor(
        pixels, words, Qwen3VLVideoProcessor(patch_size=PATCH, size=sizes), chat_template=CHAT_TEMPLATE
    )
