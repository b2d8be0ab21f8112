"""How an answer may be spelled, and how a question is put.

Source: `soft_tifa` of facebookresearch/GenEval2 (a6e82d2), evaluation.py.
"""

YES = ("Yes", "yes", " yes", " Yes")
NO = ("No", "no", " no", " No")
NUMBERS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10",
}  # fmt: skip
DIGITS = {"zero": "0", **NUMBERS}


def number(word: str) -> tuple[str, ...]:
    """The spellings of a number from zero to ten: in words, capitalised, as digits, each also behind a space."""
    capital = word.capitalize()
    return (word, capital, f" {word}", f" {capital}", DIGITS[word], f" {DIGITS[word]}")


def accepted(answer: str) -> tuple[str, ...]:
    """The spellings of `Yes`, or of a number in words."""
    return YES if answer == "Yes" else number(answer)


def ask_in_one_word(question: str) -> str:
    """The text that follows the image."""
    return f"{question} Answer in one word."
