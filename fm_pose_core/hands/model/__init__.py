"""A parametric hand: its skeleton, its skin, and how it is fitted to annotated joints."""
