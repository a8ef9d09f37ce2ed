"""Adapt a model to a volume: rank, suggest, train.

NeuroADDA (arXiv 2503.06196): find the model whose training data look most like the volume, have a few patches labelled
that say most, and fine-tune the model on them.
"""
