"""The bundle of a network for hands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm_pose_core.bundle import Bundle, Manifest, NetworkFile, is_name, write
from fm_pose_core.config import from_dict, to_dict
from fm_pose_core.contract import hand_contract
from fm_pose_core.errors import expect

HAND_POSE = "hand_pose"


@dataclass(frozen=True)
class HandEntry:
    """The hand: names of the joints in the network's order, the bones between them (pairs of names, for a skeleton
    drawing), left or right, and the cube (side, metres) and window (pixels) that the network was trained with."""

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[str, str], ...]
    left: bool
    cube: float
    size: int


@dataclass(frozen=True, kw_only=True)
class HandManifest(Manifest):
    hand: HandEntry

    def check(self) -> None:
        hand, joints = self.hand, self.hand.joints
        for name in (hand.name, *joints):
            expect(is_name(name), "hand", "names of letters, digits and _, as of a topic", repr(name)[:60])
        different = 0 < len(joints) <= 256 and len(set(joints)) == len(joints)
        expect(different, "hand.joints", "up to 256 different names", list(joints))
        for bone in hand.bones:
            expect(set(bone) <= set(joints), "hand.bones", "pairs of joints", list(bone))
        expect(0 < hand.cube < 10.0, "hand.cube", "a side in metres, below 10 m", hand.cube)
        contract = self.network.contract
        expect(hand.size == contract.size, "hand.size", f"{contract.size}, as the network's window", hand.size)
        expect(contract.channels == 1, "network.contract.channels", "1", contract.channels)
        expect(contract.head == "joints", "network.contract.head", "joints", repr(contract.head))
        outputs, wanted = {x.name: x.shape for x in contract.outputs}, (len(joints), 3)
        fits = {"presence": (1,), **outputs} == {"joints": wanted, "spread": wanted, "presence": (1,)}
        expect(fits, "network.contract.outputs", f"joints, spread, {wanted} each, and perhaps presence, (1,)", outputs)


class HandBundle(Bundle):
    """The bundle of a network for hands."""

    TASK, WHAT, MANIFEST_TYPE = HAND_POSE, "a bundle of hands", HandManifest

    @property
    def hand(self) -> HandEntry:
        """Its joints, and the cube that the network sees."""
        entry: HandEntry = self.manifest.hand
        return entry

    @property
    def name(self) -> str:
        return self.hand.name

    def describe(self) -> list[tuple[str, str]]:
        hand = self.hand
        return [
            ("hand", f"{self.name} ({'left' if hand.left else 'right'}): {', '.join(hand.joints)}"),
            ("window", f"{hand.size} x {hand.size} pixels of a cube of {1e3 * hand.cube:.0f} mm"),
        ]

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        hand = from_dict(HandEntry, values.get("hand", {}), "hand")
        expect(8 <= hand.size <= 4096, "hand.size", "8 to 4096 pixels", hand.size)
        contract = hand_contract(len(hand.joints), hand.size, hand.cube)
        network = values.get("network")
        expect(isinstance(network, dict) and "contract" not in network, "network", "an entry of format 1", network)
        return {**values, "network": {**values["network"], "contract": to_dict(contract)}}


def write_hand_bundle(path: str | Path, network: NetworkFile, hand: HandEntry) -> HandBundle:
    """Write the bundle and load it back; see bundle.write."""
    return write(HandBundle, path, network, lambda _: {"hand": hand})
