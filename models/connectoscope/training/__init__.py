"""Training: recipes, samplers, augmentation, losses, trainer, checkpoints. Knows no window."""
