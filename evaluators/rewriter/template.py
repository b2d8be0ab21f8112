"""What a chat model is asked about each prompt: a text in which `{prompt}` stands for it."""

from pathlib import Path

from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.plain_files import read_text
from rf_repro.core.untrusted.problems import MAX_RECORD_BYTES

PLACE = "{prompt}"

# Our own words: BAGEL published its rewritten prompts, but not what GPT-4o was asked.
DEFAULT = """\
Below is a short caption for an image. Write a longer description of the same image, for a model that draws from text.

Rules:
- Keep every object of the caption, under the name that the caption gives it. Keep how many there are of each, every colour, \
and every relation such as left, right, above or below; say each of them plainly at the start.
- When there are several objects, say that all of them are fully visible and do not cover each other.
- Describe shape, material, texture and light of the objects in a realistic, photographic style, on a simple background.
- Add no other objects, people, writing or numbers.
- Write 70 to 130 words of plain English sentences in one paragraph, and nothing else: no title, no list, no remarks.

Caption: {prompt}"""


def read_template(path: Path | None) -> str:
    """The text of a template file, without blank lines around it; `DEFAULT` for None.

    Raises:
        UserError: no such file, not UTF-8, or without `{prompt}`.
    """
    if path is None:
        return DEFAULT
    try:
        text = read_text(path, MAX_RECORD_BYTES).strip()
    except UserError as error:
        raise UserError(f"template={str(path)!r}: cannot be read ({error})") from None
    if PLACE not in text:
        raise UserError(f"template={str(path)!r}: holds no {PLACE}; put it where the prompt belongs")
    return text


def fill(template: str, prompt: str) -> str:
    """The template about one prompt; other braces stay as they are."""
    return template.replace(PLACE, prompt)
