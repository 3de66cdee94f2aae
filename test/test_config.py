from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fm_pose_core.config import (
    EstimatorConfig,
    from_dict,
    keys,
    knob,
    parse_yaml,
    read_configuration,
    read_yaml,
    to_dict,
)
from fm_pose_core.errors import InputError


@dataclass(frozen=True)
class Inner:
    rate: float = knob(1.0, "A rate.", 0.0, 2.0)
    on: bool = False


@dataclass(frozen=True)
class Outer:
    needed: int
    name: str = "x"
    limits: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    folder: Path | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "text",
    ["2020-99-99", "0x_", "a: &a [*a]", "[" * 500, "!!bool x", "!!timestamp x", "0x" + "f" * 5000, "a: [\n- b", "%"],
)
def test_what_is_no_yaml_is_told_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"^here: expected [^\n]*$"):
        parse_yaml(text, "here")


def test_nested_values_become_typed() -> None:
    values = {"needed": 3, "limits": [1, 2.5], "names": ["a", "b"], "folder": "data", "inner": {"rate": 2, "on": True}}
    config = from_dict(Outer, values)
    assert config == Outer(3, "x", (1.0, 2.5), ("a", "b"), Path("data"), Inner(2.0, True))
    assert isinstance(config.inner.rate, float)
    assert from_dict(Outer, to_dict(config)) == config


def test_defaults_and_none() -> None:
    assert from_dict(Outer, {"needed": 1, "folder": None}) == Outer(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needed: expected a value"),
        ({"needed": 1, "nam": "x"}, "nam: expected one of the keys needed, name"),
        ({"needed": 1, "inner": {"rat": 1.0}}, r"inner\.rat: "),
        ({"needed": "1"}, "needed: expected int"),
        ({"needed": True}, "needed: expected int"),
        ({"needed": 1.5}, "needed: expected int"),
        ({"needed": 1, "name": 2}, "name: expected str"),
        ({"needed": 1, "limits": [1.0]}, "limits: expected 2 values"),
        ({"needed": 1, "limits": [1.0, "b"]}, r"limits\[1\]: expected a finite number"),
        ({"needed": 1, "names": "ab"}, "names: expected a list"),
        ({"needed": 1, "folder": 5}, "folder: expected a path"),
        ({"needed": 1, "inner": 5}, "inner: expected a mapping"),
        ({"needed": 1, "inner": {"rate": 3.0}}, r"inner\.rate: expected at most 2\.0, got 3\.0"),
        ({"needed": 1, "inner": {"rate": -1}}, r"inner\.rate: expected at least 0\.0"),
        ({"needed": 1, "inner": {"rate": float("nan")}}, r"inner\.rate: expected a finite number"),
        ({"needed": 1, "inner": {"on": 1}}, r"inner\.on: expected bool"),
    ],
)
def test_what_does_not_fit_is_named(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(Outer, values)


def test_choices() -> None:
    assert from_dict(EstimatorConfig, {"backend": "openvino"}).backend == "openvino"
    with pytest.raises(InputError, match="backend: expected one of auto, tensorrt"):
        from_dict(EstimatorConfig, {"backend": "caffe"})


def test_yaml_errors_begin_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "estimator.yaml"
    file.write_text("threads: 2\nmin_score: 0.3\n")
    assert from_dict(EstimatorConfig, read_yaml(file)) == EstimatorConfig(threads=2, min_score=0.3)
    file.write_text("")
    assert from_dict(EstimatorConfig, read_yaml(file)) == EstimatorConfig()
    for text in ("[1, 2]", "a: [1", "a: 1\nb: 2\na: 3", "a: [{b: 1, b: 1}]"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"estimator\.yaml"):
            read_yaml(file)
    with pytest.raises(InputError, match="expected each key once in a section, got b twice"):
        read_yaml(file)
    with pytest.raises(InputError, match="nothing there"):
        read_yaml(tmp_path / "missing.yaml")


def test_a_file_takes_over_what_its_base_says(tmp_path: Path) -> None:
    (tmp_path / "split.yaml").write_text("data: {dataset: lmo, frames: 1-9}\n")
    (tmp_path / "all.yaml").write_text("loss: {gamma: 1.0, beta: 2.0}\nobjects: [1, 2]\ndata: {frames: '5'}\n")
    (tmp_path / "own.yaml").write_text(
        "base: [all.yaml, split.yaml]\ndata: {frames: 1-3}\nobjects: [3]\nloss: {beta: 5.0}\n"
    )
    assert read_configuration(tmp_path / "own.yaml") == {
        "data": {"dataset": "lmo", "frames": "1-3"},
        "loss": {"gamma": 1.0, "beta": 5.0},
        "objects": [3],
    }
    (tmp_path / "split.yaml").write_text("base: own.yaml\n")
    with pytest.raises(InputError, match=r"split\.yaml: base: expected another file than itself, got own\.yaml"):
        read_configuration(tmp_path / "own.yaml")
    (tmp_path / "split.yaml").write_text("base: [1]\n")
    with pytest.raises(InputError, match=r"split\.yaml: base: expected the name of a YAML file, or a list"):
        read_configuration(tmp_path / "own.yaml")


def test_one_value_can_be_changed_by_name() -> None:
    from fm_pose_core.config import changed

    values = {"method": "a", "schedule": {"images": 1}}
    assert changed(values, ["method=b", "schedule.images=20"]) == {"method": "b", "schedule": {"images": 20}}
    assert changed({"labels": "a"}, ["labels="]) == {"labels": ""}
    several = {"objects": [{"id": 1}, {"id": 2}]}
    assert changed(several, ["objects.1.id=5"]) == {"objects": [{"id": 1}, {"id": 5}]}
    for wrong in ("objects.2.id=5", "objects.one.id=5", "objects.-1.id=5"):
        with pytest.raises(InputError, match=r"expected a number from 0 to 1 in place of"):
            changed(several, [wrong])
    for wrong in ("method", "=3", "nothing.images=3"):
        with pytest.raises(InputError):
            changed(values, [wrong])


def test_keys_are_those_of_a_file() -> None:
    """All keys of a configuration, also in a list's items, with what their knobs say."""

    @dataclass(frozen=True)
    class Item:
        id: int = knob(1, "Number.", 1)
        colour: str = knob("red", "Paint.", choices=("red", "blue"))

    @dataclass(frozen=True)
    class Whole:
        items: tuple[Item, ...] = ()
        one: Item = field(default_factory=Item)
        size: tuple[float, float] = knob((0.5, 1.0), "Extent.", 0.0, 2.0)

    told = [(k.path, k.default, k.span, k.description) for k in keys(Whole)]
    assert told[:2] == [("items[].id", 1, "from 1", "Number."), ("items[].colour", "red", "one of red, blue", "Paint.")]
    assert told[2:4] == [("one." + path[len("items[].") :], *rest) for path, *rest in told[:2]]
    assert told[4] == ("size", (0.5, 1.0), "from 0 to 2", "Extent.")
