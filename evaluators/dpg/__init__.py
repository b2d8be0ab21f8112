"""DPG-Bench: dense prompts, and for each a tree of yes/no questions that a visual question answering model answers."""
