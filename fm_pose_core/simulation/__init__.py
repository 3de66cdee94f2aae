"""The demo's own world: an object made in code, a table with clutter, a camera that photographs them as a real one
would."""
