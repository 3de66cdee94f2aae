"""Typed, frozen configuration. One YAML file per experiment; a key or a type that does not fit fails by name.

Each field carries its description and range in `metadata`, from which `--help`, the checks here and the ROS
parameters are made: one source of defaults.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fm_pose_core.errors import InputError, expect

T = TypeVar("T")


def knob(
    default: Any, description: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A dataclass field with a description and, optionally, an inclusive range or a list of choices."""
    return field(default=default, metadata={"description": description, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class EngineConfig:
    """How a network runs, and which answers are accepted; for objects and hands."""

    backend: str = knob(
        "auto",
        "Inference engine; auto takes the first one that loads.",
        choices=("auto", "tensorrt", "openvino", "onnxruntime", "torch"),
    )
    precision: str = knob(
        "auto",
        "Arithmetic; auto is fp32 on CPUs and what TensorRT was built for on GPUs. bf16 is faster and less exact.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    threads: int = knob(0, "CPU threads for inference; 0 lets the backend choose.", 0, 256)
    views: int = knob(
        4,
        "Views of each window, a little displaced and turned, whose answers are averaged; 1: the window alone, as in "
        "the paper.",
        1,
        32,
    )
    min_score: float = knob(0.15, "Gate: smallest score (no probability) that is accepted.", 0.0, 1.0)


@dataclass(frozen=True)
class HandEstimatorConfig(EngineConfig):
    """The same for hands, which pass one more gate (benchmarks/hand_presence.py)."""

    min_presence: float = knob(
        0.99, "Gate: smallest probability that there is a hand, if the network tells it.", 0.0, 1.0
    )


@dataclass(frozen=True)
class EstimatorConfig(EngineConfig):
    """The same for objects, whose poses pass one more gate."""

    max_reprojection_error: float = knob(
        8.0, "Gate: largest RMS distance in pixels between predicted corners and those of PnP's pose.", 0.1, 1000.0
    )
    refine: str = knob(
        "none",
        "Whether poses are refined (slower): none; edges: by those in the image, and by the colours on both sides of "
        "the outline; features: by the bundle's own network that compares it with a rendering; both: by features, then "
        "by edges; auto: as the objects' poses got better on real images, if embreex is installed.",
        choices=("none", "auto", "edges", "features", "both"),
    )
    support: str = knob(
        "auto",
        "Whether objects stand on one plane, such as a table. auto: where the bundle knows how they stand, and at "
        "least three in an image agree, the others make an object's pose better. none: each by itself.",
        choices=("auto", "none"),
    )
    min_detection: float = knob(
        0.4, "Smallest score of what the bundle's own detector finds that is given a window.", 0.01, 1.0
    )


LARGEST = 1e300  # a number beyond is a mistake; neither does a whole one of more digits become a float


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build the frozen dataclass `cls` from nested dicts. Raises InputError that names the unknown key, the wrong
    type or the value out of range, with its full path (`data.distance`)."""
    expect(isinstance(values, dict), where or cls.__name__, "a mapping", type(values).__name__)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in values:
        expect(key in fields, f"{prefix}{key}", f"one of the keys {', '.join(fields)}", "an unknown key")
    arguments = {}
    for name, f in fields.items():
        if name in values:
            arguments[name] = _convert(hints[name], values[name], prefix + name)
            _check_range(f, arguments[name], prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InputError(f"{prefix}{name}: expected a value, got none")
    return cls(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, where)
    if origin is tuple:
        expect(isinstance(value, list | tuple), where, "a list", repr(value))
        item_hints = typing.get_args(hint)
        if item_hints[-1] is Ellipsis:
            item_hints = (item_hints[0],) * len(value)
        expect(len(value) == len(item_hints), where, f"{len(item_hints)} values", repr(value))
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(item_hints, value, strict=True)))
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
        expect(is_number, where, "a finite number", repr(value)[:60])
        return float(value)
    if hint is Path:
        expect(isinstance(value, str | Path), where, "a path", repr(value))
        return Path(value)
    expect(isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), where, hint.__name__, repr(value))
    return value


def _check_range(f: "dataclasses.Field[Any]", value: Any, where: str) -> None:
    low, high, choices = (f.metadata.get(k) for k in ("low", "high", "choices"))
    if choices:
        expect(value in choices, where, f"one of {', '.join(choices)}", repr(value))
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, int | float) and not isinstance(number, bool):
            expect(low is None or number >= low, where, f"at least {low}", number)
            expect(high is None or number <= high, where, f"at most {high}", number)


@dataclass(frozen=True)
class Key:
    """A key of a configuration: its path, as "data.split" or "objects[].id", and what its knob says."""

    path: str
    default: Any
    span: str
    description: str


def keys(cls: type[Any], where: str = "") -> list[Key]:
    """All keys that `from_dict` takes for `cls`, in the order of the fields."""
    hints = typing.get_type_hints(cls)
    result = []
    for f in dataclasses.fields(cls):
        path = f"{where}.{f.name}" if where else f.name
        inner = next((h for h in (hints[f.name], *typing.get_args(hints[f.name])) if dataclasses.is_dataclass(h)), None)
        if inner is not None:
            result += keys(inner, path if inner is hints[f.name] else f"{path}[]")  # type: ignore[arg-type]
            continue
        low, high, choices = (f.metadata.get(k) for k in ("low", "high", "choices"))
        ends = [f"{word} {end:g}" for word, end in (("from", low), ("to", high)) if end is not None]
        default = None if f.default is dataclasses.MISSING else f.default
        result.append(
            Key(
                path,
                default,
                "one of " + ", ".join(choices) if choices else " ".join(ends),
                f.metadata.get("description", ""),
            )
        )
    return result


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, in UTF-8. Raises InputError that begins with the file's name."""
    path = Path(path)
    expect(path.is_file(), str(path), "a YAML file", "nothing there")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, got {error}") from None
    values = parse_yaml(text, str(path)) or {}
    expect(isinstance(values, dict), str(path), "a mapping", type(values).__name__)
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The value that YAML writes. No key may stand twice in a section, and nothing may refer to something else
    (`*name`): such values may contain themselves. Raises InputError that begins with `where`."""
    import yaml

    try:
        aliases = any(isinstance(x, yaml.AliasToken) for x in yaml.scan(text, yaml.SafeLoader))
        expect(not aliases, where, "values that are written out", "a reference (*name)")
        _expect_each_key_once(yaml.compose(text, yaml.SafeLoader), where)
        value = yaml.safe_load(text)
        repr(value)  # as an error may show it: not every number can be written
        return value
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{where}: expected YAML, got {' '.join(str(error).split())}") from None
    except Exception as error:  # the library hands on what Python says of a date or number that cannot be
        raise InputError(f"{where}: expected YAML, got a value that is none: {error}") from None


def read_configuration(path: str | Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file with what it takes over from others: its key `base` names them, one or a list, beside it. Sections
    are joined key by key; where both have a value, or a list, the later of the bases holds, and the file's own before
    all. above: files whose base this one is. Raises InputError, also for a file that is its own base."""
    path = Path(path)
    values = read_yaml(path)
    named = values.pop("base", [])
    bases = named if isinstance(named, list) else [named]
    expect(all(isinstance(x, str) for x in bases), f"{path}: base", "the name of a YAML file, or a list", repr(named))
    chain = (*above, path.resolve())
    result: dict[str, Any] = {}
    for base in bases:
        expect((path.parent / base).resolve() not in chain, f"{path}: base", "another file than itself", base)
        result = _joined(result, read_configuration(path.parent / base, chain))
    return _joined(result, values)


def _joined(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _joined(base[key], value) if both else value
    return result


def _expect_each_key_once(node: Any, where: str) -> None:
    """YAML's own reader would take the last one without a word."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, value in node.value:
            again = isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1
            expect(not again, where, "each key once in a section", f"{key.value} twice")
            _expect_each_key_once(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _expect_each_key_once(value, where)


def changed(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """`values` with each "key.key=value" of `changes` put in ("objects.0.id=5" in a list); the value is read as YAML,
    nothing as an empty text. Unknown keys are left to `from_dict`."""
    for change in changes:
        path, equals, text = change.partition("=")
        expect(bool(path and equals), "--set", "KEY=VALUE such as method=real_only", repr(change))
        *parents, last = path.split(".")
        inner: Any = values
        for key in parents:
            inner = _inside(inner, key, path)
        _inside(inner, last, path, must_exist=False)
        inner[int(last) if isinstance(inner, list) else last] = parse_yaml(text, path) if text else ""
    return values


def _inside(values: Any, key: str, path: str, must_exist: bool = True) -> Any:
    """What a section or a list (by number) holds; None for a key that is yet to come."""
    if isinstance(values, list):
        fits = key.isdecimal() and int(key) < len(values)
        expect(fits, path, f"a number from 0 to {len(values) - 1} in place of {key}", "none")
        return values[int(key)]
    expect(isinstance(values, dict), path, f"a section that has {key}", "a value")
    known = ", ".join(str(k) for k in values)
    expect(key in values or not must_exist, path, f"one of {known}", repr(key))
    return values.get(key)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (paths as strings, tuples as lists) that `from_dict` reads back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def parse_numbers(name: str, text: str, count: int) -> list[float]:
    """'1,2.5' -> [1.0, 2.5]. Raises InputError that names the option if there are not `count` numbers."""
    try:
        values = [float(x) for x in text.split(",")]
    except ValueError:
        values = []
    expect(len(values) == count, name, f"{count} numbers separated by commas", repr(text))
    return values
