"""ROS parameters from the frozen dataclasses of the core's configuration: one source of names, defaults, descriptions
and ranges."""

import dataclasses
import difflib
import math
import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from fm_pose_core.config import from_dict
from fm_pose_core.errors import InputError

T = TypeVar("T")
OTHERS = ("use_sim_time", "start_type_description_service")  # rclpy's own


class Parameters:
    """The parameters of one node.

    fixed: for each dataclass of `knob` fields, the names that cannot change after the start (read_only).
    Changes at run time go through the same checks as a configuration file, and `check`, which raises InputError for an
    instance that the node cannot have; the new value holds from the next frame on.
    """

    def __init__(
        self, node: Node, fixed: dict[type, tuple[str, ...]], check: Callable[[Any], None] = lambda _: None
    ) -> None:
        self._node, self._possible = node, check
        self._classes = tuple(fixed)
        self._current: dict[type, tuple[float, dict[str, Any], Any]] = {}  # number of changes then, values, instance
        self._changes = 0.0
        for cls, names in fixed.items():
            hints = typing.get_type_hints(cls)
            for f in dataclasses.fields(cls):
                node.declare_parameter(f.name, f.default, _descriptor(f, hints[f.name], f.name in names))
        node.add_on_set_parameters_callback(self._check)
        if hasattr(node, "add_post_set_parameters_callback"):
            node.add_post_set_parameters_callback(self._count_change)
        else:  # Humble: nobody tells of changes, so values are read anew each time; NaN is never the same number
            self._changes = math.nan
        self._warn_of_unknown()

    def get(self, cls: type[T]) -> T:
        """The current values as an instance of `cls`. Raises InputError if a start-up value isn't allowed."""
        changes, (read, before, current) = self._changes, self._current.get(cls, (math.nan, {}, None))
        if read != changes:
            values = self._values(cls)
            current = current if values == before else from_dict(cls, values)
            self._current[cls] = (changes, values, current)
        return typing.cast(T, current)

    def _count_change(self, _: list[Parameter]) -> None:
        self._changes += 1

    def _warn_of_unknown(self) -> None:
        """Of parameters that were given to the node and that it does not have, such as misspelt ones. What rclpy's own
        parts will declare has a dot or is known by name."""
        given = [name for name in self._node._parameter_overrides if "." not in name and name not in OTHERS]
        known = [f.name for cls in self._classes for f in dataclasses.fields(cls)]
        for name in sorted(set(given) - set(known)):
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; is {near[0]} meant?" if near else ""
            self._node.get_logger().warning(f"parameter {name}: expected one that this node has, got another{meant}")

    def _values(self, cls: type) -> dict[str, Any]:
        return {f.name: self._node.get_parameter(f.name).value for f in dataclasses.fields(cls)}

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for cls in self._classes:
            names = {f.name for f in dataclasses.fields(cls)}
            changes = {p.name: p.value for p in parameters if p.name in names}
            try:
                if changes:
                    self._possible(from_dict(cls, {**self._values(cls), **changes}))
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _descriptor(f: "dataclasses.Field[Any]", hint: type, read_only: bool) -> ParameterDescriptor:
    low, high, choices = (f.metadata.get(k) for k in ("low", "high", "choices"))
    descriptor = ParameterDescriptor(description=f.metadata["description"], read_only=read_only)
    descriptor.dynamic_typing = hint is float  # takes 1 for 1.0; `from_dict` refuses what is no number
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
