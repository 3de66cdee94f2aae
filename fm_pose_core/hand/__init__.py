"""A parametric hand: its skeleton, skin, fitting to annotated joints."""
