"""Connectoscope: everything that computes. Imports neither Qt nor napari.

Kept empty of imports on purpose: ``connectoscope --help`` must answer at once.
"""

__version__ = "0.1.0"
