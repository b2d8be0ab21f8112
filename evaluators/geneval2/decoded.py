"""Images as the questions about them need them: the questions of one image follow each other, so it is decoded once."""

from collections.abc import Callable

from PIL import Image

from evaluators.geneval.folder import ImageFile, decode
from evaluators.vlm.protocol import Parts

KEPT = 2  # decoded images: a batch may end one image's questions and begin the next one's


class DecodedImages:
    """Makes `Query.load`s that share the last decoded images: equal images are one object, which a model may use."""

    def __init__(self) -> None:
        self._kept: dict[str, Image.Image] = {}

    def question(self, image: ImageFile, text: str) -> Callable[[], Parts]:
        """A function that gives (image, text). It raises UserError when the file has changed since it was scanned."""
        return lambda: (self._decode(image), text)

    def _decode(self, image: ImageFile) -> Image.Image:
        if image.sha256 not in self._kept:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[image.sha256] = decode(image)
        return self._kept[image.sha256]


def question_key(image: ImageFile, question: int) -> str:
    """The question's place, and its image's content: a new image in the same place is asked about anew."""
    return f"{image.prompt_id:05d}/{image.sample:04d}/{question:02d}/{image.sha256[:16]}"
