"""The understanding benchmarks of the paper's Tables 2 and 3e: their data, prompts, parsers and scores, for any model.

evaluate("mmmu", Options(model="Qwen/Qwen3-VL-8B-Instruct", data="hub"))
"""

from evaluators.understanding.run import BenchmarkEvaluation, Options, evaluate, evaluate_share, read_benchmarks

__all__ = ["BenchmarkEvaluation", "Options", "evaluate", "evaluate_share", "read_benchmarks"]
