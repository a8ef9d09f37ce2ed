"""From a network's probabilities to objects: probability images, connected components across blocks, tables."""
