"""A byte-level BPE of Qwen's kind, a few hundred tokens, made on the spot."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# Qwen2's and Qwen3's
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PLAIN_ADDED = ("<think>", "</think>")  # added, not special: Qwen3 has such ones too
TEXTS = (
    "a photo of a red circle above a blue square and two green triangles on a plain background",
    "what is in the image? there are three yellow circles. how many shapes are there? the answer is two.",
    "user assistant caption question answer image text the of and to in is that it was for on are with as",
)


def tiny_tokenizer(num_merged: int = 120, special: tuple[str, ...] = SPECIAL) -> Tokenizer:
    """256 bytes, merges of TEXTS, then the added tokens, whose ids come last, as in Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + num_merged, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_ADDED])
    return tokenizer


def write_tiny_tokenizer(folder: Path, num_merged: int = 120, special: tuple[str, ...] = SPECIAL) -> int:
    """Writes `tokenizer.json` (and transformers' `tokenizer_config.json`) into the folder; returns the number of tokens: a
    decoder's vocab_size must be larger."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(num_merged, special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size(with_added_tokens=True)
