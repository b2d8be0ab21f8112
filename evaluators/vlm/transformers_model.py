"""Any image-text-to-text model of `transformers`: Qwen2.5-VL, Qwen3-VL, InternVL and others."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.vlm.protocol import Parts, SomeFailed, images_of, text_of
from rf_repro.core.errors import UserError
from rf_repro.core.hub import (
    MODEL,
    find_model,
    first_line,
    loading,
    model_revision,
    refuse_strangers,
    require_all_weights,
    require_safetensors,
)
from rf_repro.core.install import extra_hint
from rf_repro.core.streams import quiet_transformers

if TYPE_CHECKING:
    import torch

REMEDY = "name a run, a folder or a model of the hub"


class TransformersVLM:
    """A model with its processor and chat template: one user message a question, thinking switched off where that is a choice.

    Images have the sizes that the model's own processor gives them. Answers are what it decodes to, untouched but for special
    tokens, which are left out. Batches are padded on the left: their numbers differ from single questions' in the last bits.

    Args:
        model: on its device, in evaluation mode.
        processor: the model's; its padding side is changed.
        revision: tells weights and processor apart.

    Raises:
        UserError: it has no chat template, or no token that ends an answer.
    """

    def __init__(self, model: Any, processor: Any, revision: str) -> None:
        from transformers import GenerationConfig

        tokenizer = processor.tokenizer
        self._template = getattr(processor, "chat_template", None) or tokenizer.chat_template
        ends = model.generation_config.eos_token_id
        ends = list(ends) if isinstance(ends, (list, tuple)) else [tokenizer.eos_token_id if ends is None else ends]
        if self._template is None or ends == [None]:
            lacks = "chat template" if self._template is None else "token that ends an answer"
            raise UserError(f"{revision}: has no {lacks}; choose a model tuned for chat")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ends[0])
        tokenizer.padding_side = "left"  # answers begin where the questions end
        # Published models bring sampling settings and repetition penalties of their own: none of them applies here.
        model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
        )  # fmt: skip
        self._model, self._processor, self._tokenizer = model, processor, tokenizer
        self._specials = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        named = (getattr(processor, name, None) for name in ("image_token", "video_token"))
        self._specials += [token for token in named if isinstance(token, str) and token not in self._specials]
        self._keep_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._first_tokens: dict[tuple[str, str], int | None] = {}
        self.revision = revision
        self.settings = {
            "decoding": "greedy",
            "dtype": str(model.dtype).removeprefix("torch."),
            "image_processor": type(processor.image_processor).__name__,  # with and without torchvision they differ by roundings
        }

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """As of `VisionLanguageModel`. Raises UserError where the batch does not fit in memory."""
        return self._reply(batch, lambda kept, inputs, prompts: self._generate(inputs, max_new_tokens))

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        """As of `VisionLanguageModel`: one forward pass, softmax in float32.

        A spelling's first token is the one that follows the prompt's in the tokenisation of both together, so that what the
        prompt ends with may change it. Special tokens in a spelling are plain text. A first token of white space alone is left
        out: it would stand for every spelling that begins so. Tokenizers that take digits one by one, as Qwen's, have it in
        " 4"; counting it would give all numbers the same probability.
        """

        def run(kept: Sequence[int], inputs: Any, prompts: Sequence[str]) -> list[list[float]]:
            wanted = [[self._tokens(prompt, group) for group in choices[i]] for i, prompt in zip(kept, prompts, strict=True)]
            rows = self._next_token(inputs)
            return [[float(row[ids].sum()) for ids in groups] for row, groups in zip(rows, wanted, strict=True)]

        return self._reply(batch, run)

    def _reply(self, batch: Sequence[Parts], run: Callable[[Sequence[int], Any, Sequence[str]], list[Any]]) -> list[Any]:
        """`run` on the questions that the processor takes; the others are `SomeFailed`."""
        import torch

        reasons = {index: reason for index, parts in enumerate(batch) if (reason := self._unfit(parts))}
        kept = [index for index in range(len(batch)) if index not in reasons]
        prompts = [self._prompt(batch[index]) for index in kept]
        try:
            inputs = self._inputs([batch[index] for index in kept], prompts) if kept else None
        except ValueError:  # one of them: of a size or shape that the processor refuses
            for index, prompt in zip(kept, prompts, strict=True):
                try:
                    self._inputs([batch[index]], [prompt])
                except ValueError as error:
                    reasons[index] = f"refused by the model's processor: {first_line(error)}"
            if not reasons.keys() & set(kept):
                raise
            kept = [index for index in kept if index not in reasons]
            prompts = [self._prompt(batch[index]) for index in kept]
            inputs = self._inputs([batch[index] for index in kept], prompts) if kept else None
        try:
            found = run(kept, inputs, prompts) if kept else []
        except torch.OutOfMemoryError:
            raise UserError(f"{self.revision}: batch_size={len(kept)} does not fit in memory; give less") from None
        if not reasons:
            return found
        by_index = dict(zip(kept, found, strict=True))
        raise SomeFailed([by_index.get(index) for index in range(len(batch))], reasons)

    def _unfit(self, parts: Parts) -> str | None:
        spelt = next((token for token in self._specials if token in text_of(parts)), None)
        return f"its text spells the special token {spelt} of {self.revision}" if spelt else None

    def _prompt(self, parts: Parts) -> str:
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=self._template, tokenize=False, add_generation_prompt=True,
            enable_thinking=False,
        )  # fmt: skip

    def _inputs(self, batch: Sequence[Parts], prompts: Sequence[str]) -> Any:
        images = [images_of(parts) for parts in batch]
        # Templates write the tokens that begin a text themselves.
        inputs = self._processor(
            text=list(prompts),
            images=images if any(images) else None,
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        )
        return inputs.to(self._model.device, dtype=self._model.dtype)

    def _generate(self, inputs: Any, max_new_tokens: int) -> list[str]:
        import torch

        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=max_new_tokens)[:, inputs["input_ids"].shape[1] :].cpu()
        return self._tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _next_token(self, inputs: Any) -> "torch.Tensor":
        """Probabilities, float32 [B, V]."""
        import torch

        with torch.inference_mode():
            logits = self._model(**inputs, **({"logits_to_keep": 1} if self._keep_last else {})).logits[:, -1]
            return logits.float().softmax(-1).cpu()

    def _tokens(self, prompt: str, spellings: Sequence[str]) -> list[int]:
        """The distinct first tokens of a group. Raises UserError when none is left."""
        stops = [prompt.rfind(token) + len(token) for token in self._specials if token in prompt]
        tail = prompt[max(stops, default=0) :]  # no token reaches across a special one
        for spelling in spellings:
            if (tail, spelling) not in self._first_tokens:
                self._first_tokens[tail, spelling] = self._first_token(tail, spelling)
        found = dict.fromkeys(self._first_tokens[tail, spelling] for spelling in spellings)
        ids = [token for token in found if token is not None]
        if not ids:
            raise UserError(f"{self.revision}: no first token tells {list(spellings)} from others; give other spellings")
        return ids

    def _first_token(self, tail: str, spelling: str) -> int | None:
        before, both = self._encode(tail), self._encode(tail + spelling)
        # Where the spelling changes how the prompt itself is cut, the prompt stands as it is and the spelling begins alone.
        following = both[len(before) :] if both[: len(before)] == before else self._encode(spelling)
        if not following or (spelling.strip() and not self._tokenizer.decode(following[:1]).strip()):
            return None
        return following[0]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def check_transformers_vlm(name: str) -> None:
    """Reads the configuration of a model and none of its weights.

    Raises:
        UserError: transformers is not installed, there is no such model, or it answers no questions about images.
    """
    _check_config(name, find_model(name, f"model={name!r}", ("*.json",)))


def load_transformers_vlm(name: str, device: "torch.device") -> TransformersVLM:
    """A model from a folder or the Hugging Face hub, in the precision in which it was saved.

    Args:
        name: a folder or a hub id; `organisation/name@revision` pins a commit, tag or branch.

    Raises:
        UserError: transformers or torchvision is not installed, the model cannot be loaded, lacks weights or needs code of its
            own, or it takes no images.
    """
    check_transformers_vlm(name)  # before gigabytes are fetched
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = f"model={name!r}"
    folder = find_model(name, place, MODEL)
    require_safetensors(folder, place)
    try:
        with quiet_transformers(), loading(place, REMEDY):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True, ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
            )  # fmt: skip
    except ImportError as error:  # image and video processors need torchvision
        raise UserError(f"{place}: lacks a package ({first_line(error)}); install it with: {extra_hint('vlm')}") from None
    model, info = loaded
    require_all_weights(info, place)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UserError(f"model={name!r}: its processor is a {type(processor).__name__}, without a tokenizer and images")
    return TransformersVLM(model.to(device).eval(), processor, model_revision(name, folder))


def _check_config(name: str, folder: Path) -> None:
    try:
        from transformers import AutoConfig, AutoModelForImageTextToText
    except ImportError as error:
        raise UserError(
            f"model={name!r}: needs transformers ({first_line(error)}); install it with: {extra_hint('vlm')}"
        ) from None
    with quiet_transformers(), loading(f"model={name!r}", REMEDY):
        refuse_strangers(folder, f"model={name!r}")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UserError(f"model={name!r}: a {config.model_type} answers no questions about images; name one that does")
