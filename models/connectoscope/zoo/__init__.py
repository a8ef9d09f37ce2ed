"""Model bundles: finding, loading, writing them. Knows no training."""

from connectoscope.zoo.bundle import Bundle, find_model, list_models
from connectoscope.zoo.card import Card

__all__ = ["Bundle", "Card", "find_model", "list_models"]
