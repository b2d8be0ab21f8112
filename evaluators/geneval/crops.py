"""What the colour classifier gets to see of an object."""

from PIL import Image, ImageOps

from evaluators.detection import Detections

BACKGROUND = "#999"  # grey 153: what a mask hides


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, in RGB. Boxes and masks refer to it, whatever the file stores."""
    return ImageOps.exif_transpose(image).convert("RGB")


def object_crops(image: Image.Image, objects: Detections) -> list[Image.Image]:
    """One RGB crop an object: everything outside its mask is grey, then its box is cut out.

    Without masks the box alone is cut out. Corners are rounded to whole pixels, halves to the even one; parts of a box
    outside the image are black.

    Raises:
        ValueError: masks of another size than the image (the detector saw another image, or forgot to scale back).
    """
    image = upright_rgb(image)
    width, height = image.size
    if objects.masks is not None and objects.masks.shape[1:] != (height, width):
        raise ValueError(f"masks are {objects.masks.shape[1:]} (height, width), the image is {(height, width)}")
    blank = Image.new("RGB", image.size, BACKGROUND)
    crops = []
    for index, box in enumerate(objects.boxes.tolist()):
        shown = image
        if objects.masks is not None:
            shown = Image.composite(image, blank, Image.fromarray(objects.masks[index]))
        left, top, right, bottom = (round(corner) for corner in box)
        crops.append(shown.crop((left, top, right, bottom)))
    return crops
