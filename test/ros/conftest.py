from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def rig(toy_bundle: Path) -> Iterator[Callable[..., Any]]:
    """rig(listen=…, bundle=…, topics=…, **parameters) -> a camera_rig.Rig, active and connected to the camera unless
    autostart=False or connected=False. topics: the camera's, see Peer."""
    from camera_rig import Rig

    rigs = []

    def make(
        listen: tuple[str, ...] = ("detections",),
        bundle: Path | str = toy_bundle,
        topics: dict[str, str] | None = None,
        connected: bool = True,
        **parameters: Any,
    ) -> Rig:
        made = Rig(bundle, parameters, listen, **(topics or {}))
        rigs.append(made)
        if connected and parameters.get("autostart", True):
            made.wait_active()
        return made

    yield make
    for made in rigs:
        made.close()
