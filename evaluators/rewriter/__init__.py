"""Rewrites a prompt set by a chat model: the same objects in more words. The result is a prompt set of its own, and scores on it
are never those of the original."""
