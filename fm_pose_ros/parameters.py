"""ROS parameters from the frozen dataclasses of the core's configuration: one source of names, defaults, descriptions
and ranges."""

import dataclasses
import sys
import typing
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from fm_pose_core.config import from_dict
from fm_pose_core.errors import InputError

T = TypeVar("T")


class Parameters:
    """The parameters of one node.

    fixed: for each dataclass of `knob` fields, the names that cannot change after the start (read_only).
    Changes at run time go through the same checks as a configuration file; the new value holds from the next frame on.
    """

    def __init__(self, node: Node, fixed: dict[type, tuple[str, ...]]) -> None:
        self._node = node
        self._classes = tuple(fixed)
        self._current: dict[type, tuple[dict[str, Any], Any]] = {}
        for cls, names in fixed.items():
            hints = typing.get_type_hints(cls)
            for f in dataclasses.fields(cls):
                node.declare_parameter(f.name, f.default, _descriptor(f, hints[f.name], f.name in names))
        node.add_on_set_parameters_callback(self._check)

    def get(self, cls: type[T]) -> T:
        """The current values as an instance of `cls`. Raises InputError if a start-up value isn't allowed."""
        values = self._values(cls)
        if cls not in self._current or self._current[cls][0] != values:
            self._current[cls] = (values, from_dict(cls, values))
        return typing.cast(T, self._current[cls][1])

    def _values(self, cls: type) -> dict[str, Any]:
        return {f.name: self._node.get_parameter(f.name).value for f in dataclasses.fields(cls)}

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for cls in self._classes:
            names = {f.name for f in dataclasses.fields(cls)}
            changes = {p.name: p.value for p in parameters if p.name in names}
            try:
                if changes:
                    from_dict(cls, {**self._values(cls), **changes})
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _descriptor(f: "dataclasses.Field[Any]", hint: type, read_only: bool) -> ParameterDescriptor:
    low, high, choices = (f.metadata.get(k) for k in ("low", "high", "choices"))
    descriptor = ParameterDescriptor(description=f.metadata["description"], read_only=read_only)
    if choices:
        descriptor.additional_constraints = f"one of {', '.join(choices)}"
    if hint is int and (low is not None or high is not None):
        limits = (-(2**63) if low is None else int(low), 2**63 - 1 if high is None else int(high))
        descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1], step=0)]
    if hint is float and (low is not None or high is not None):
        bounds = (
            -sys.float_info.max if low is None else float(low),
            sys.float_info.max if high is None else float(high),
        )
        descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1], step=0.0)]
    return descriptor
