"""The one exception type that bad input raises; its text names what was expected and what came."""


class InputError(ValueError):
    """Input that the package cannot use: a file, an array, a configuration value."""


def expect(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise InputError("name: expected …, got …") unless `condition` holds."""
    if not condition:
        raise InputError(f"{name}: expected {expected}, got {got}")
