"""One token a word: the scenes world's captions need no subwords."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from rf_repro.config.schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.grammar import vocabulary

SPECIAL = ("<pad>", "<bos>", "<eos>", "<null>")


class SceneTokenizer:
    """Words of one world's captions, after the special tokens pad = 0, bos = 1, eos = 2 and null = 3 (a dropped text)."""

    pad_id, bos_id, eos_id, null_id = range(4)

    def __init__(self, config: ScenesConfig) -> None:
        self._words = vocabulary(config)
        ids = {word: index for index, word in enumerate([*SPECIAL, *self._words])}
        self._tokenizer = Tokenizer(WordLevel(ids, unk_token="<pad>"))  # never met: `encode` refuses unknown words
        self._tokenizer.pre_tokenizer = WhitespaceSplit()
        self._tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", self.bos_id), ("<eos>", self.eos_id)]
        )
        self._tokenizer.add_special_tokens(list(SPECIAL))

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL) + len(self._words)

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Token ids `<bos> words <eos> <pad> ...`.

        Args:
            texts: N captions.
            length: tokens in a row, bos and eos included.

        Returns:
            int64 [N, length].

        Raises:
            UserError: a word is not in the vocabulary, or a text does not fit.
        """
        ids = np.full((len(texts), length), self.pad_id, np.int64)
        for row, (text, encoding) in enumerate(zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)):
            for word in text.split():
                if word not in self._words:
                    raise UserError(f"text {text!r}: unknown word {word!r}; this world's are {', '.join(self._words)}")
            if len(encoding.ids) > length:
                raise UserError(
                    f"text {text!r}: {len(encoding.ids)} tokens; data.max_text_tokens={length} allows no more, raise it"
                )
            ids[row, : len(encoding.ids)] = encoding.ids
        return ids

    def decode(self, ids: np.ndarray) -> list[str]:
        """Texts of int64 [N, length], without special tokens."""
        return self._tokenizer.decode_batch(np.asarray(ids).tolist(), skip_special_tokens=True)

    def to_json(self) -> str:
        """The whole tokenizer in the `tokenizers` library's format."""
        return self._tokenizer.to_str()
