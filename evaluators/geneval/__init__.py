"""GenEval: does an image show the objects, numbers, colours and positions that its prompt asks for?

    evaluate("images", Options(prompts="official", weights="mask2former"))

scores a folder of any model's images. Nothing here imports torch until a model is loaded.
"""

from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.run import FolderEvaluation, Options, evaluate, evaluate_share

__all__ = ["FolderEvaluation", "GenEvalOptions", "Options", "evaluate", "evaluate_share"]
