from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def rig(toy_bundle: Path) -> Iterator[Callable[..., Any]]:
    """rig(listen=…, bundle=…, **parameters) -> a camera_rig.Rig, active unless autostart=False."""
    from camera_rig import Rig

    rigs = []

    def make(listen: tuple[str, ...] = ("detections",), bundle: Path | str = toy_bundle, **parameters: Any) -> Rig:
        made = Rig(bundle, parameters, listen)
        rigs.append(made)
        if parameters.get("autostart", True):
            made.wait_active()
        return made

    yield make
    for made in rigs:
        made.close()
