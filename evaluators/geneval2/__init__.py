"""GenEval 2: questions about images of 800 prompts, scored by the probabilities of the right answers (Soft-TIFA).

evaluate("images.json", Options(model="Qwen/Qwen3-VL-8B-Instruct"))
"""

from evaluators.geneval2.run import Options, evaluate, evaluate_share

__all__ = ["Options", "evaluate", "evaluate_share"]
