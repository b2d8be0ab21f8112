"""One token a word: the captions, questions and answers of the scenes world need no subwords."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.grammar import vocabulary
from rf_repro.data.scenes.questions import question_vocabulary

SPECIAL = ("<pad>", "<bos>", "<eos>", "<null>")


class SceneTokenizer:
    """Words of one world's captions, then those that only questions have, after the special tokens pad = 0, bos = 1, eos = 2
    and null = 3 (a dropped text)."""

    pad_id, bos_id, eos_id, null_id = range(4)

    def __init__(self, config: ScenesConfig) -> None:
        self._words = list(dict.fromkeys(vocabulary(config) + question_vocabulary(config)))
        self._ids = {word: index for index, word in enumerate([*SPECIAL, *self._words])}
        self._tokenizer = Tokenizer(WordLevel(self._ids, unk_token="<pad>"))  # never met: `encode` refuses unknown words
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
            self._check_words(text)
            _check_length(text, len(encoding.ids), length)
            ids[row, : len(encoding.ids)] = encoding.ids
        return ids

    def encode_questions(self, questions: Sequence[str], answers: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids `<bos> question answer <eos> <pad> ...` and where the answers are.

        Args:
            questions, answers: N each.
            length: tokens in a row, bos and eos included.

        Returns:
            int64 [N, length], and bool [N, length]: True at the answer's tokens and its eos, the targets of the loss.

        Raises:
            UserError: a word is not in the vocabulary, an answer is empty, or a question with its answer does not fit.
        """
        ids = np.full((len(questions), length), self.pad_id, np.int64)
        mask = np.zeros(ids.shape, bool)
        for row, (question, answer) in enumerate(zip(self.encode_prompts(questions), answers, strict=True)):
            words = answer.split()
            if not words:
                raise UserError(f"question {questions[row]!r}: its answer is empty; give at least one word")
            self._check_words(answer)
            stop = len(question) + len(words) + 1
            _check_length(f"{questions[row]} {answer}", stop, length)
            ids[row, :stop] = [*question, *(self._ids[word] for word in words), self.eos_id]
            mask[row, len(question) : stop] = True
        return ids, mask

    def encode_prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """`<bos> question` of each, what an answer is generated from; not padded.

        Raises:
            UserError: a word is not in the vocabulary.
        """
        for question in questions:
            self._check_words(question)
        return [[self.bos_id, *(self._ids[word] for word in question.split())] for question in questions]

    def decode_answers(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Words up to the first eos; other special tokens are spelt out, so that an answer with one is never right."""
        words = [*SPECIAL, *self._words]
        return [" ".join(words[token] for token in takewhile(lambda token: token != self.eos_id, row)) for row in ids]

    def decode(self, ids: np.ndarray) -> list[str]:
        """Texts of int64 [N, length], without special tokens."""
        return self._tokenizer.decode_batch(np.asarray(ids).tolist(), skip_special_tokens=True)

    def to_json(self) -> str:
        """The whole tokenizer in the `tokenizers` library's format."""
        return self._tokenizer.to_str()

    def _check_words(self, text: str) -> None:
        for word in text.split():
            if word in SPECIAL or word not in self._ids:
                raise UserError(f"text {text!r}: unknown word {word!r}; this world's are {', '.join(self._words)}")


def _check_length(text: str, num_tokens: int, length: int) -> None:
    if num_tokens > length:
        raise UserError(
            f"text {text!r}: {num_tokens} tokens, {length} are allowed; raise data.caption_tokens (captions) or "
            "data.answer_tokens (answers)"
        )
