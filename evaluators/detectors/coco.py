"""The 80 classes a COCO detector reports, in its own order, under the names GenEval's prompts use.

A label is an index into `OBJECT_NAMES`: three names differ from COCO's, so that looking labels up by name would lose them.
"""

from collections.abc import Mapping

COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
GENEVAL_NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
OBJECT_NAMES = tuple(GENEVAL_NAMES.get(name, name) for name in COCO_NAMES)


def misplaced(labels: Mapping[int, str]) -> list[str]:
    """COCO's names that a model lists under another index than COCO's; names foreign to COCO say nothing and pass.

    Models spell some classes their own way ("sofa"), so a label need not be known; one that is must be in its place, or
    every label would be read as another class.
    """
    return [name for index, name in sorted(labels.items()) if name in COCO_NAMES and COCO_NAMES.index(name) != index]
