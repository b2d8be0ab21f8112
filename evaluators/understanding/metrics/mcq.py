"""Letters from replies to multiple-choice questions: VLMEvalKit's rules, shared by its MMMU, BLINK, RealWorldQA and AI2D.

Source of the behaviour: VLMEvalKit, vlmeval/utils/matching_util.py at f71d473 and d21c5e9 (not on PyPI; seen through
copies that name these commits). Earlier commits lack the rules marked *, so long replies parse differently there.
"""

import re
from collections.abc import Mapping

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
API_FAILURE = "Failed to obtain answer via API"
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATEMENT = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)
_LAST_WORDS = 4


def vlmevalkit_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """The letter VLMEvalKit reads without a judge; None where it would ask one (and, without one, counts wrong).

    Args:
        reply: any text.
        options: {letter: text}.

    Rules, in order:
        1. A refusal, by one of four sentences, is no letter. A failed API call neither, but its text is still searched
           for an option's.
        2. `.()[],:;!*#{}` become spaces. Exactly one of the letters is a word of its own, and (*) its *first* occurrence
           is among the last four words: that letter. No letter but a "Z": refusal.
        3. (*) "answer is X", X of A-D in any case, asterisks before it allowed; the start of a longer word counts, so
           "the answer is blue" reads B.
        4. (*) Unless the reply is longer than twice all options' texts together: the only option whose text, lower-cased,
           is part of the reply. Equal or contained options match together, so none is taken.
    """
    if API_FAILURE not in reply:
        if any(refusal in reply for refusal in REFUSALS):
            return None
        words = reply.translate(_SEPARATORS).split()
        letters = [letter for letter in options if letter in words]
        if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
            return letters[0]
        if not letters and "Z" in words:
            return None
        statement = _STATEMENT.search(reply)
        if statement is not None and statement[1].upper() in options:
            return statement[1].upper()
    lowered = reply.lower()
    if len(lowered) > 2 * sum(map(len, options.values())):
        return None
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None
