"""GenEval's prompts judged by a vision-language model in place of a detector: `geneval-vlm`, which is not GenEval."""
