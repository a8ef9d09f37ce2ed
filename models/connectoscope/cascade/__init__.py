"""Cascade detectors: look coarsely first (Athey, Sawmya, Shavit 2025, arXiv 2504.21598)."""
