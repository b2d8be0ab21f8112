"""Lists that data sets store as the text Python prints of them. Nothing is computed."""

import ast
import warnings

MAX_LITERAL = 100_000  # characters
MAX_OPEN = 64  # brackets within one another, those in quotes counted too


def listed_texts(text: str) -> list[str] | None:
    """The items of a stored list or tuple as texts; None where the text is none."""
    if len(text) > MAX_LITERAL or _is_deep(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as "\d"
            value = ast.literal_eval(text)
        return [str(item) for item in value] if isinstance(value, list | tuple) else None
    # TypeError: a set of lists, say; ValueError: also integers of thousands of digits, in hexadecimal only as they are printed.
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _is_deep(text: str) -> bool:
    depth = 0
    for letter in text:
        depth += 1 if letter in "([{" else -1 if letter in ")]}" else 0
        if depth > MAX_OPEN:
            return True
    return False
