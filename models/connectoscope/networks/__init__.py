"""Networks, their receptive-field arithmetic and what makes them fast to run. Knows no files and no training."""
