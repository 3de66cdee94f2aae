"""An engine that fails while the node runs: a real one, whose network looks up an entry that is not there when it sees
a white pixel."""

from pathlib import Path

import numpy as np
import pytest
import toy_bundle as toy
from camera_rig import CAMERA, image_msg
from lifecycle_msgs.msg import State, Transition
from test_lifecycle import Manager
from test_object_pose_node import HERE, U, V

from fm_pose_core.bundle import NetworkFile
from fm_pose_core.contract import object_contract
from fm_pose_core.objects.bundle import ObjectInBundle, write_object_bundle
from fm_pose_ros import lifecycle

GOOD = toy.toy_image(CAMERA, U, V, color=(250, 40, 40))
BAD = GOOD.copy()
BAD[int(V), int(U)] = 255


@pytest.fixture
def fragile(tmp_path: Path) -> Path:
    """The toy bundle with such a network."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(toy.toy_network())
    graph = model.graph
    constants = {"white": np.int64(250), "entries": np.zeros(1, np.float32), "zero_index": np.int64(0)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    (spread,) = (node for node in graph.node if node.output[0] == "spread")
    spread.output[0] = "safe_spread"
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["floats"], ["brightest"], keepdims=0),
            helper.make_node("Cast", ["brightest"], ["level"], to=TensorProto.INT64),
            helper.make_node("Sub", ["level", "white"], ["above_white"]),
            helper.make_node("Max", ["above_white", "zero_index"], ["index"]),
            helper.make_node("Gather", ["entries", "index"], ["entry"]),
            helper.make_node("Add", ["safe_spread", "entry"], ["spread"]),
        ]
    )
    network = NetworkFile(model.SerializeToString(), {"name": "toy"}, object_contract(toy.CROP.size))
    box = ObjectInBundle("toy_box", 1, toy.MINIMUM, toy.MAXIMUM, toy.DIAMETER, toy.CROP.focal)
    return write_object_bundle(tmp_path / "fragile", network, [box]).path


def failed(r) -> bool:
    """Whether the diagnostics tell it."""
    last = r.states()[-1:]
    return any(s.level == s.ERROR and s.message.startswith("the engine failed: onnxruntime on CPU: ") for s in last)


def test_a_node_whose_engine_fails_loads_it_again(rig, fragile, monkeypatch):
    monkeypatch.setattr(lifecycle, "RETRY_PERIOD", 0.5)
    r = rig(("detections", "markers"), bundle=fragile, backend="onnxruntime", diagnostics_period=0.1, **HERE)
    r.send_info()
    assert r.send(image_msg(GOOD, 1.0)).detections
    fragile.rename(fragile.with_name("away"))  # nor can it be loaded for a while
    r.images.publish(image_msg(BAD, 2.0))
    r.wait(lambda: failed(r), "the diagnostics")
    assert Manager(r).state == State.PRIMARY_STATE_UNCONFIGURED
    r.wait(lambda: any("cannot configure" in s.message for s in r.states()), "a try that fails")
    fragile.with_name("away").rename(fragile)
    r.wait_active()
    r.send_info()
    assert r.send(image_msg(GOOD, 3.0)).detections
    told = [w for w in r.warnings() if "the engine failed" in w]
    assert len(told) == 1 and told[0].endswith("; the network is loaded again in 0.5 s")


def test_a_manager_leads_the_node_back(rig, fragile):
    r = rig(autostart=False, bundle=fragile, backend="onnxruntime", diagnostics_period=0.1, **HERE)
    manager = Manager(r)
    for stamp in (1.0, 10.0):
        assert manager(Transition.TRANSITION_CONFIGURE) and manager(Transition.TRANSITION_ACTIVATE)
        r.wait_active()
        r.wait(lambda: not failed(r), "the diagnostics")
        r.send_info()
        assert r.send(image_msg(GOOD, stamp)).detections
        r.images.publish(image_msg(BAD, stamp + 1.0))
        r.wait(lambda: failed(r), "the diagnostics")
        assert manager.state == State.PRIMARY_STATE_UNCONFIGURED
    assert [w.split("; ")[-1] for w in r.warnings()] == ["configure the node to try again"] * 2
