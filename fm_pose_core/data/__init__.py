"""Training and evaluation data: rendering (T^S), real images (T^R), pairs (T^M) and BOP datasets."""
