"""Vision-language models as evaluators ask them: answers in words, or probabilities of given words."""
