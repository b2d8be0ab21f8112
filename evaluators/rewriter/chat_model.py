"""Any chat model of `transformers`, asked greedily."""

from collections.abc import Sequence
from typing import Any

import torch

from evaluators.rewriter.rewrite import Reply
from rf_repro.core.errors import UserError
from rf_repro.core.hub import (
    MODEL,
    find_model,
    loading,
    model_revision,
    refuse_strangers,
    require_all_weights,
    require_safetensors,
)
from rf_repro.core.install import extra_hint
from rf_repro.core.streams import quiet_transformers


class TransformersChatModel:
    """A causal language model with its tokenizer's chat template; one user message a text, thinking switched off.

    Args:
        model: on its device, in evaluation mode.
        revision: tells weights and tokenizer apart.
        max_new_tokens: length at which an answer is cut.
    """

    def __init__(self, model: Any, tokenizer: Any, revision: str, max_new_tokens: int) -> None:
        from transformers import GenerationConfig

        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends]
        if tokenizer.chat_template is None or ends == [None]:
            lacks = "chat template" if tokenizer.chat_template is None else "token that ends an answer"
            raise UserError(f"{revision}: its tokenizer has no {lacks}; choose a model tuned for chat")
        # Published models bring sampling settings and repetition penalties of their own: none of them applies here.
        model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ends[0])
        tokenizer.padding_side = "left"  # answers begin where the questions end
        self._model, self._tokenizer, self._ends = model, tokenizer, torch.tensor(ends)
        self.revision = revision
        self.settings = {"decoding": "greedy", "max_new_tokens": max_new_tokens, "dtype": str(model.dtype).removeprefix("torch.")}

    @torch.inference_mode()
    def reply(self, texts: Sequence[str]) -> list[Reply]:
        """The answers to all texts, made as one batch."""
        chats = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for text in texts
        ]
        inputs = self._tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False).to(self._model.device)
        tokens = self._model.generate(**inputs)[:, inputs["input_ids"].shape[1] :].cpu()
        complete = torch.isin(tokens, self._ends).any(1).tolist()
        answers = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Reply(text, bool(ended)) for text, ended in zip(answers, complete, strict=True)]


def load_chat_model(name: str, device: torch.device, max_new_tokens: int) -> TransformersChatModel:
    """A model from a folder or the Hugging Face hub, in the precision in which it was saved.

    Args:
        name: a folder or a hub id; `organisation/name@revision` pins a commit, tag or branch.

    Raises:
        UserError: transformers is not installed, the model cannot be loaded, lacks weights or needs code of its own, or it is
            not tuned for chat.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError(f"model={name!r}: needs transformers ({error}); install it with: {extra_hint('geneval')}") from None
    place = f"model={name!r}"
    folder = find_model(name, place, MODEL)
    require_safetensors(folder, place)
    with quiet_transformers(), loading(place, "name a folder or a model of the hub"):
        refuse_strangers(folder, place)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
        )  # fmt: skip
    model, info = loaded
    require_all_weights(info, place)
    return TransformersChatModel(model.to(device).eval(), tokenizer, model_revision(name, folder), max_new_tokens)
