"""NeuroADDA (Sawmya, Athey, Liu, Shavit 2025, arXiv 2503.06196): the nearest model, a few patches, fine-tuning.

``signature`` and ``features`` say what a model was trained on, ``mmd`` how far that is from a volume, ``ranking`` orders
models by it; ``patches`` chooses what is worth labelling, ``labels`` reads what was labelled, ``finetune`` learns it.
"""
