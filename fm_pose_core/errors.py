"""The one exception type that bad input raises; its text names what was expected and what came."""

LONGEST = 500  # letters: what came may be a million numbers


class InputError(ValueError):
    """Input that the package cannot use: a file, an array, a configuration value."""


def expect(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise InputError("name: expected …, got …") unless `condition` holds. What came is cut where it is long."""
    if not condition:
        text = str(got)
        raise InputError(f"{name}: expected {expected}, got {text if len(text) <= LONGEST else text[:LONGEST] + '…'}")
