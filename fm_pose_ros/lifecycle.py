"""The lifecycle node that every pose node is: states, autostart, parameters, publishers and subscriptions.

Everything of a node runs on its executor's thread. There are no locks, and a transition never meets a frame half done.
"""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy._rclpy_pybind11 import RCLError, UnknownROSArgsError
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions

from fm_pose_core.errors import EngineError, InputError
from fm_pose_ros.child_frames import ChildFrames
from fm_pose_ros.core_log import core_log
from fm_pose_ros.node_config import Configs, NodeConfig
from fm_pose_ros.parameters import Parameters
from fm_pose_ros.subscribing import FollowingSubscription

RETRY_PERIOD = 5.0  # seconds between two tries to load a network that failed
FOLLOW_PERIOD = 0.5  # seconds between two looks at the publishers
LAST_WORDS = 0.2  # seconds that a last message may take to its subscribers
PATIENCE = 0.1  # seconds until a signal to end is seen while no message comes
OVERRIDABLE = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


class PoseNode(LifecycleNode):
    """A node that loads a model, listens while it is active, and publishes. A subclass fills in four steps: setup,
    start, stop, teardown.

    state: unconfigured, inactive, active or finalized. failure: why it could not be configured, or empty. backend: what
    runs the network. hardware_id: what the diagnostics name. transforms: what sends them, from setup to teardown.
    """

    def __init__(self, name: str, configs: Configs, **kwargs: Any) -> None:
        """configs: the node's parameters. kwargs: as for rclpy's Node."""
        super().__init__(name, **kwargs)
        self._answer_every_request()
        self.parameters = Parameters(self, configs, self.check)
        self.state = "unconfigured"
        self.failure = ""
        self.backend = "none"
        self.hardware_id = ""
        self.transforms: ChildFrames | None = None
        self._inputs: list[FollowingSubscription] = []
        self._outputs: list[Any] = []
        self._follower = self.steady_timer(FOLLOW_PERIOD, self._suit_publishers)
        self._retry: Any = None
        self._starter = self.steady_timer(0.0, self._on_start) if self.parameters.get(NodeConfig).autostart else None

    # The four steps

    def setup(self) -> None:
        """Load the model and create the publishers. Raises InputError if that is impossible: the node stays
        unconfigured."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to listen: create the subscriptions."""
        raise NotImplementedError

    def stop(self) -> None:
        """Send the last messages, before the publishers fall silent."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Let go of the model."""
        raise NotImplementedError

    def check(self, config: Any) -> None:
        """Raise InputError for parameters (an instance of one of `configs`) that what is loaded cannot have."""

    # What a node makes

    def subscription(
        self, msg_type: type, topic: str, callback: Any, depth: int = 1, latched: bool = False
    ) -> FollowingSubscription:
        """A subscription that suits its publishers and ends with the active state. latched: whether the last message
        from before it is wanted."""
        made = FollowingSubscription(self, msg_type, topic, callback, depth, latched)
        self._inputs.append(made)
        return made

    def publisher(self, msg_type: type, topic: str, depth: int = 10, latched: bool = False) -> Any:
        """A reliable lifecycle publisher that lasts until the node is cleaned up. latched: late subscribers get the
        last message."""
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = _qos(depth, ReliabilityPolicy.RELIABLE, durability)
        made = self.create_lifecycle_publisher(msg_type, topic, qos, qos_overriding_options=OVERRIDABLE)
        self._outputs.append(made)
        return made

    def steady_timer(self, period: float, callback: Callable[[], None]) -> Any:
        """A timer, period in seconds, that does not wait for simulated time."""
        return self.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def engine_failed(self, error: EngineError) -> None:
        """The network cannot be executed any more. Once this frame is over, the node goes back to unconfigured, which
        lets go of the engine. A node that starts by itself then tries again and again; the others wait for their
        manager."""
        if self._retry is None:
            self._retry = self.steady_timer(0.0, lambda: self._give_up(error))

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, create the publishers."""
        try:
            self.transforms = ChildFrames(self)
            with core_log(self.get_logger()):
                self.setup()
        except Exception as error:
            self._release()
            self.failure = f"cannot configure: {error}"
            known = isinstance(error, InputError)
            self.get_logger().error(self.failure if known else f"cannot configure:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        self.state, self.failure = "inactive", ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the publishers, subscribe."""
        result = super().on_activate(state)
        try:
            self.start()
        except Exception as error:
            self.failure = f"cannot activate: {error}"
            known = isinstance(error, InputError)
            self.get_logger().error(self.failure if known else f"cannot activate:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        self.state = "active"
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, silence the publishers."""
        self.stop()
        self._unsubscribe()
        if self.transforms is not None:
            self.transforms.rest()
        self.state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and the publishers."""
        self._release()
        self.state = "unconfigured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From whatever state to the end."""
        if self.state == "active":
            self.stop()
        self._release()
        self.state = "finalized"
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed half-way: back to the start."""
        self._release()
        self.state = "unconfigured"
        return super().on_error(state)

    def finish(self) -> None:
        """The end of the process: shut down from whatever state, so that nothing stays behind in RViz."""
        if self.state == "active":
            self.trigger_deactivate()
            for publisher in self._outputs:
                publisher.wait_for_all_acked(Duration(seconds=LAST_WORDS))
        if self.state != "finalized":
            self.trigger_shutdown()
        self.destroy_node()

    def _answer_every_request(self) -> None:
        """A transition that the state does not allow is refused. rclpy would end the node with an exception."""
        service = self._service_change_state
        change = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                changed: ChangeState.Response = change(request, response)
            except RCLError:
                asked = request.transition.label or f"number {request.transition.id}"
                self.get_logger().warning(f"change_state: expected a transition from {self.state}, got {asked}")
                response.success = False
                return response
            return changed

        service.callback = answer

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            subscription.destroy()
        self._inputs.clear()

    def _release(self) -> None:
        self._unsubscribe()
        for publisher in self._outputs:
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        if self.transforms is not None:
            self.transforms.close()
            self.transforms = None
        self.teardown()
        self.backend = "none"

    def _suit_publishers(self) -> None:
        for subscription in self._inputs:
            subscription.follow()

    def _give_up(self, error: EngineError) -> None:
        self.destroy_timer(self._retry)
        self._retry = None
        if self.state != "active":
            return
        self.trigger_deactivate()
        self.trigger_cleanup()
        self.failure = f"the engine failed: {error}"
        again = self.parameters.get(NodeConfig).autostart
        then = f"the network is loaded again in {RETRY_PERIOD:g} s" if again else "configure the node to try again"
        self.get_logger().error(f"{self.failure}; {then}")
        if again:
            self._retry = self.steady_timer(RETRY_PERIOD, self._try_again)

    def _try_again(self) -> None:
        ours = self.state == "unconfigured"  # else somebody else leads the node by now
        if ours and self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return
        self.destroy_timer(self._retry)
        self._retry = None
        if ours:
            self.trigger_activate()

    def _on_start(self) -> None:
        self.destroy_timer(self._starter)
        if self.state == "unconfigured" and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()


def run_nodes(makes: Sequence[Callable[[], PoseNode]], name: str, args: list[str] | None = None) -> None:
    """Spin nodes, each in a thread of its own, until SIGINT or SIGTERM asks them to end: then what they do is finished
    first, and their last messages go out. A bad parameter ends all with one line; so does a fault in one of them, with
    its traceback.

    rclpy's own handlers would take the context away in the middle of a frame. Ctrl-C under launch comes twice, from the
    terminal and from launch: further signals change nothing.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except (RCLError, UnknownROSArgsError, UnicodeError) as error:  # arguments that are none
        sys.exit(f"{name}: {' '.join(str(error).split())}")
    try:
        nodes = [make() for make in makes]
        with ThreadPoolExecutor(len(nodes)) as threads:
            others = [threads.submit(_spin, node, asked) for node in nodes[1:]]
            _spin(nodes[0], asked)  # here, where Python runs the handlers of signals
        for other in others:
            other.result()
    except (InputError, ParameterException) as error:
        sys.exit(f"{name}: {error}")
    finally:
        rclpy.try_shutdown()


def _spin(node: PoseNode, asked: list[int]) -> None:
    """Until something is in `asked`, which a node that fails sees to."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok() and not asked:
            executor.spin_once(timeout_sec=PATIENCE)
        if rclpy.ok():
            node.finish()
    finally:
        asked.append(0)


def _qos(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)
