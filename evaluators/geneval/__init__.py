"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): does the image show the objects, counts, colours and positions asked for?"""
