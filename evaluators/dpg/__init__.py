"""DPG-Bench: dense prompts, and for each a tree of yes/no questions that a visual question answering model answers.

evaluate("images", Options(model="Qwen/Qwen3-VL-8B-Instruct"))
"""

from evaluators.dpg.outcome import DPGEvaluation
from evaluators.dpg.run import Options, evaluate, evaluate_share

__all__ = ["DPGEvaluation", "Options", "evaluate", "evaluate_share"]
