"""Variation and selection: DEAP operators on genotypes. No tensors, no torch."""
