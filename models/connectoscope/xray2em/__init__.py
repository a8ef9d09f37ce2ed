"""X-ray to EM (arXiv 2303.00882), and the way back: what an X-ray microscope would have made of an EM volume."""
