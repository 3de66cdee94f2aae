"""The exception types. Bad input raises one, whose text names what was expected and what came."""

LONGEST = 500  # letters: what came may be a million numbers


class InputError(ValueError):
    """Input that the package cannot use: a file, an array, a configuration value."""


class EngineError(RuntimeError):
    """An inference engine that was loaded no longer executes its network. Whether it will again is not known: load it
    anew."""


def expect(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise InputError("name: expected …, got …") unless `condition` holds. What came is cut where it is long."""
    if not condition:
        text = str(got)
        raise InputError(f"{name}: expected {expected}, got {text if len(text) <= LONGEST else text[:LONGEST] + '…'}")
