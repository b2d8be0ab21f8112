"""GenEval 2: questions about images of 800 prompts, scored by the probabilities of the right answers (Soft-TIFA)."""
