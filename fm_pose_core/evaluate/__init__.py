"""Evaluation: metrics with their sources, whole datasets, and an HTML report with pictures."""
