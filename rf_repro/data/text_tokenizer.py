"""Qwen's tokenizer as image_text uses it: captions to draw from, conversations and texts to learn.

Where a sample's parts lie follows the model's layouts: a caption stands before the image that is drawn, so it ends with
`<|vision_start|>`; a conversation stands behind the features of the image it is about, so it starts with `<|vision_end|>`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hub import split_revision
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import read_text
from rf_repro.core.untrusted.problems import MAX_JSON_BYTES, shown

if TYPE_CHECKING:
    from rf_repro.data.shards.samples import Turn

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
NULL = "<|rf_null|>"  # stands for each token of a dropped text; no data holds it
REQUIRED = (IM_START, IM_END, END_OF_TEXT, VISION_START, VISION_END)


class ImageTextTokenizer:
    """Text to ids and back.

    Attributes:
        pad_id, bos_id, eos_id: `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.
        null_id: the first id that the tokenizer leaves free. Embedding tables are larger than vocabularies: Qwen3's has 151,936
            rows for 151,669 tokens.
        vocab_size: rows of the decoder's embedding table, of which ids use the first.

    What data says is always plain text: a caption that spells `<|im_end|>` has the tokens of its letters, not that token.
    """

    def __init__(self, content: str, vocab_size: int, where: str) -> None:
        """
        Args:
            content: of a `tokenizer.json` file.
            vocab_size: rows of the decoder's embedding table.
            where: it came from, for errors.

        Raises:
            UserError: not such a file, special tokens are missing, or no row is left for the null token.
        """
        try:
            tree: dict[str, Any] = parse_json(content)
            whole = Tokenizer.from_str(content)
            # The tokens that text may not spell are those added to the vocabulary; without them nothing is recognised.
            self._plain = Tokenizer.from_str(json.dumps({**tree, "added_tokens": [], "post_processor": None}))
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{where}: not a tokenizer of the tokenizers library ({shown(error)}); give one with Qwen's"
            ) from None
        for one in (whole, self._plain):
            one.no_padding()
            one.no_truncation()
        found = whole.get_vocab(with_added_tokens=True)
        missing = [token for token in REQUIRED if token not in found]
        if missing:
            raise UserError(f"{where}: lacks {', '.join(missing)}; data.tokenizer must be Qwen's or have its special tokens")
        self._whole, self.vocab_size = whole, vocab_size
        self.pad_id, self.bos_id, self.eos_id = found[END_OF_TEXT], found[IM_START], found[IM_END]
        self._vision_start, self._vision_end = found[VISION_START], found[VISION_END]
        self.null_id = found.get(NULL, max(found.values()) + 1)
        if max(found.values(), default=0) >= vocab_size or self.null_id >= vocab_size:
            raise UserError(
                f"model.decoder.vocab_size={vocab_size}: must be at least {self.null_id + 1}, the tokens of {where} and {NULL}"
            )

    @classmethod
    def from_config(cls, config: ExperimentConfig) -> "ImageTextTokenizer":
        """The tokenizer of `data.tokenizer`, else of `model.decoder.pretrained`: a folder, or a model of the Hugging Face hub.

        Raises:
            UserError: none is named, or it cannot be read or downloaded.
        """
        name = config.data.tokenizer or config.model.decoder.pretrained
        if not name:
            raise UserError("data.tokenizer='': must be a folder with tokenizer.json, or a hub id such as Qwen/Qwen3-0.6B")
        path = Path(name).expanduser() / "tokenizer.json"
        if not path.is_file():
            path = _download(name)
        return cls(read_text(path, MAX_JSON_BYTES), config.model.decoder.vocab_size, str(path))

    def to_json(self) -> str:
        """The tokenizer.json it was made from."""
        return self._whole.to_str()

    # Into ids

    def caption(self, text: str, max_tokens: int) -> np.ndarray:
        """`<|im_start|>caption<|im_end|><|vision_start|>`, what an image is drawn from: int64 [T], T <= max_tokens (>= 4). A
        longer caption loses its end, not its frame."""
        ids = [self.bos_id, *self._encode(text.strip())[: max_tokens - 3], self.eos_id, self._vision_start]
        return np.array(ids, np.int64)

    def conversation(self, turns: Sequence["Turn"], with_image: bool, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """`[<|vision_end|>]`, then each turn as in Qwen's chat template, without a system's part (assumed):
        `<|im_start|>user\\nquestion<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>\\n`.

        Returns:
            int64 [T], and bool [T]: True at the answers' tokens and the `<|im_end|>` that ends each. Cut at max_tokens; a
            conversation cut before its first answer has no True.
        """
        ids: list[int] = [self._vision_end] if with_image else []
        mask = [False] * len(ids)
        newline = self._encode("\n")
        for turn in turns:
            asked = [self.bos_id, *self._encode("user\n" + turn.question.strip()), self.eos_id, *newline, *self._assistant()]
            answer = [*self._encode(turn.answer.strip()), self.eos_id]
            ids += [*asked, *answer, *newline]
            mask += [False] * len(asked) + [True] * len(answer) + [False] * len(newline)
        return np.array(ids[:max_tokens], np.int64), np.array(mask[:max_tokens], bool)

    def text(self, text: str, max_tokens: int, with_image: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """`[<|vision_end|>]text<|endoftext|>`: int64 [T], cut at max_tokens, and bool [T], True at all but the first token. With
        an image it is the image's description."""
        ids = [*([self._vision_end] if with_image else []), *self._encode(text.strip()), self.pad_id][:max_tokens]
        mask = np.ones(len(ids), bool)
        mask[0] = False
        return np.array(ids, np.int64), mask

    def prompt(self, question: str, with_image: bool) -> np.ndarray:
        """A conversation up to where its answer begins, int64 [T], not cut: what an answer is generated from."""
        head = [self._vision_end] if with_image else []
        asked = [self.bos_id, *self._encode("user\n" + question.strip()), self.eos_id, *self._encode("\n"), *self._assistant()]
        return np.array([*head, *asked], np.int64)

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer as `conversation` has them, but for the white space around it, which this keeps."""
        return self._encode(text)

    def _assistant(self) -> list[int]:
        return [self.bos_id, *self._encode("assistant\n")]

    def _encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    # Back into text

    def decode(self, ids: Sequence[int] | np.ndarray, with_special: bool = False) -> str:
        """The text of ids; special tokens are left out, or spelt. What stands for no text is `<|rf_null|>`, or nothing."""
        parts: list[str] = []
        run: list[int] = []
        for token in map(int, ids):
            if self._whole.id_to_token(token) is None or token == self.null_id:
                parts += [self._whole.decode(run, skip_special_tokens=not with_special), NULL if with_special else ""]
                run = []
            else:
                run.append(token)
        return "".join([*parts, self._whole.decode(run, skip_special_tokens=not with_special)])

    def decode_answer(self, ids: Sequence[int] | np.ndarray) -> str:
        """What was generated before the first `<|im_end|>`; special tokens in it are spelt, so that such an answer is never
        right."""
        ids = list(map(int, ids))
        return self.decode(ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids, with_special=True).strip()


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        source, revision = split_revision(name)
        return Path(hf_hub_download(source, "tokenizer.json", revision=revision))
    except Exception as error:  # of the network, of names, of rights, of files: many kinds, one remedy
        reason = str(error).strip().splitlines()
        raise UserError(
            f"data.tokenizer: {name} is no folder with tokenizer.json, and the hub does not give it "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}); set data.tokenizer to a folder that has it"
        ) from None
