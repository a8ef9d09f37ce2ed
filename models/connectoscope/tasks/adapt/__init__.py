"""Adapt a model to a volume: rank, suggest, train.

NeuroADDA (arXiv 2503.06196): find the model whose training data look most like the volume, label the few patches that
help most, and fine-tune the model on them.
"""
