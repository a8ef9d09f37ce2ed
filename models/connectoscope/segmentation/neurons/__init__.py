"""Neurons from affinities or membranes: fragments of each cell, their contacts, agglomeration across all cells."""
