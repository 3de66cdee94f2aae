"""Meshes and how they look: rendering, light, backgrounds. Free of what is learned from it."""
