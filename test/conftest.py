import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_bundle import write_toy_bundle


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with known answers, see toy_bundle.py. Shared: don't write into it."""
    pytest.importorskip("onnx", reason="the tests make networks of their own (pip install onnx)")
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy_box")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For networks so small that torch is slower with several threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the core logs from INFO on."""
    caplog.set_level(logging.INFO, "fm_pose_core")
    return caplog
