"""Subscriptions that suit their publishers.

Best effort goes with every publisher, but between two processes it loses images larger than the middleware's buffers.
A reliable subscription loses none, but hears reliable publishers alone. Which they are shows once they are found.
"""

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from fm_pose_core.errors import expect

RELIABILITIES = {x: ReliabilityPolicy.get_from_short_key(x) for x in ("reliable", "best_effort", "system_default")}
DURABILITIES = {x: DurabilityPolicy.get_from_short_key(x) for x in ("transient_local", "volatile", "system_default")}
Policies = tuple[ReliabilityPolicy, DurabilityPolicy]
FOLLOWS = "Empty: as the publishers have it."


class FollowingSubscription:
    """A subscription that is reliable while all publishers of its topic are, else best effort; and latched likewise,
    if it wants messages from before its time. `follow` looks at the publishers; while none is known it stays as it is.

    The parameters qos_overrides.TOPIC.subscription.reliability and .durability settle it instead.
    """

    def __init__(
        self, node: Node, msg_type: type, topic: str, callback: Callable[..., None], depth: int, latched: bool
    ) -> None:
        """latched: whether the last message from before the subscription is wanted. Raises InputError for an override
        that is none."""
        self._node, self._type, self._callback = node, msg_type, callback
        self._topic, self._depth, self._latched = topic, depth, latched
        self._kind = f"{msg_type.__module__.split('.')[0]}/msg/{msg_type.__name__}"
        self.topic_name = str(node.resolve_topic_name(topic))
        self._reliability = self._override("reliability", RELIABILITIES)
        self._durability = self._override("durability", DURABILITIES)
        self._policies: Policies = (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)  # before any is known
        self._policies = self._suitable()
        self._inner = self._subscribe()

    @property
    def callback(self) -> Callable[..., None]:
        """What gets the messages."""
        return self._callback

    @callback.setter
    def callback(self, callback: Callable[..., None]) -> None:
        self._callback = self._inner.callback = callback

    @property
    def qos_profile(self) -> QoSProfile:
        """As it is now."""
        profile: QoSProfile = self._inner.qos_profile
        return profile

    def get_publisher_count(self) -> int:
        """How many publishers are matched."""
        return int(self._inner.get_publisher_count())

    def advice(self) -> str:
        """Why nothing may have come, and what to do about it."""
        count = self._node.count_publishers(self.topic_name)
        if not count:
            there = ", ".join(self._others()) or "none"
            return f"nobody publishes there. Remap the topic; topics with such messages: {there}"
        kinds = {x.topic_type for x in self._node.get_publishers_info_by_topic(self.topic_name)}
        if kinds and self._kind not in kinds:
            return f"its publisher sends {', '.join(sorted(kinds))}, and this subscription takes {self._kind}"
        if not self.get_publisher_count() and (self._reliability or self._durability):
            asked = f"{self.qos_profile.reliability.short_key}, {self.qos_profile.durability.short_key}"
            return f"its publisher's QoS does not go with this subscription's ({asked}), see qos_overrides"
        return f"its publisher is found ({count}), but has sent nothing since"

    def _others(self) -> list[str]:
        """Topics on which somebody else publishes messages of this type."""
        topics = [topic for topic, types in self._node.get_topic_names_and_types() if self._kind in types]
        own = {publisher.topic_name for publisher in self._node.publishers}
        return sorted(topic for topic in topics if topic not in own and self._node.count_publishers(topic))

    def follow(self) -> None:
        """Subscribe anew if the publishers ask for it."""
        wanted = self._suitable()
        if wanted != self._policies:
            self.destroy()
            self._policies = wanted
            self._inner = self._subscribe()

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._inner)

    def _suitable(self) -> Policies:
        """For the publishers that there are; without any as it is."""
        reliability, durability = self._policies
        profiles = [x.qos_profile for x in self._node.get_publishers_info_by_topic(self.topic_name)]
        if profiles:
            reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
            latched = reliable and all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
            reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
            wanted = latched and self._latched
            durability = DurabilityPolicy.TRANSIENT_LOCAL if wanted else DurabilityPolicy.VOLATILE
        return self._reliability or reliability, self._durability or durability

    def _subscribe(self) -> Any:
        reliability, durability = self._policies
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=reliability, durability=durability
        )
        options = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
        return self._node.create_subscription(
            self._type, self._topic, self._callback, qos, qos_overriding_options=options
        )

    def _override(self, policy: str, values: dict[str, Any]) -> Any:
        """What the parameter says, or None."""
        name = f"qos_overrides.{self.topic_name}.subscription.{policy}"
        if not self._node.has_parameter(name):
            self._node.declare_parameter(name, "", ParameterDescriptor(description=FOLLOWS, read_only=True))
        value = self._node.get_parameter(name).value
        expect(value in ("", *values), name, f"one of {', '.join(values)}", repr(value))
        return values[value] if value else None
