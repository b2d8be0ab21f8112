"""GenEval's prompts judged by a vision-language model in place of a detector: `geneval-vlm`, which is not GenEval.

evaluate("images", Options(model="Qwen/Qwen3-VL-8B-Instruct", prompts="official"))
"""

from evaluators.geneval_vlm.run import Options, evaluate, evaluate_share

__all__ = ["Options", "evaluate", "evaluate_share"]
