"""Detectors: cells as points (:mod:`~connectoscope.detection.blobs`), tissue as a mask; a block at a time."""
