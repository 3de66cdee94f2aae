"""A parametric hand: its skeleton, skin, fitting to annotated joints, and windows of depth maps."""
