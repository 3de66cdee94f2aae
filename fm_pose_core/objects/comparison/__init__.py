"""Refinement by comparison: what the photograph shows against a rendering at the estimated pose, in the mapped feature
space, h_Δ(g(f(photograph)), f(rendering))."""
