"""The paper's ablation tables as grids of variants, and its claims as data. Imports no torch."""
