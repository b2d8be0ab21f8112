"""Yes or no from replies: VLMEvalKit's rule, shared by its MME and HallusionBench.

Source of the behaviour: VLMEvalKit, YOrN_Extraction in vlmeval/dataset/utils/yorn.py and process_punctuation in
vlmeval/smp/misc.py (the VQA challenge's punctuation rules).
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_GROUPS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32  # re.UNICODE's value, passed to `sub` where its count belongs


def vlmevalkit_yes_no(reply: str) -> str | None:
    """ "yes" or "no" when it is a word of the reply and the other is not; None otherwise (VLMEvalKit: Unknown).

    Each mark of `_PUNCTUATION` is deleted where it has a space on either side anywhere in the reply, or where the reply
    has digits joined by a comma; elsewhere it becomes a space. So "no-one" holds a "no", unless a spaced dash or "1,000"
    elsewhere makes it "noone". Periods not followed by a digit go, the first 32. Other marks stay: "*Yes*", "'yes'" and
    "yes:" hold no "yes".
    """
    text = reply.lower()
    joined = _DIGIT_GROUPS.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if joined or beside_space else " ")
    words = _PERIOD.sub("", cleaned, count=_PERIODS_REMOVED).split()
    yes, no = "yes" in words, "no" in words
    return None if yes == no else ("yes" if yes else "no")
