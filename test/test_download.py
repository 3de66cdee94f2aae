"""The download command on local copies of a small dataset: a folder, and a server on this machine that answers as the
BOP hub does."""

import hashlib
import http.server
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bop

from fm_pose_core.cli import main
from fm_pose_core.errors import InputError
from fm_pose_core.objects import download
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.download import download_bop, read_checksums, unpack

PARTS = ["base", "models", "test_bop19"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives as on the BOP hub: the base one holds a folder with the dataset's name, the others do not."""
    folder = tmp_path_factory.mktemp("hub")
    root = tiny_bop.write_tiny_bop(tmp_path_factory.mktemp("data") / "lmo")
    with zipfile.ZipFile(folder / "lmo_base.zip", "w") as z:
        z.writestr("lmo/", "")
        z.write(root / "test_targets_bop19.json", "lmo/test_targets_bop19.json")
        z.writestr("lmo/camera.json", "{}")
    for part, source in (("models", "models"), ("test_bop19", "test")):
        with zipfile.ZipFile(folder / f"lmo_{part}.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for path in sorted((root / source).rglob("*")):
                z.write(path, str(path.relative_to(root)))
    return folder


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder as the BOP hub does. log: (method, file, Range). cut: bytes after which the next body breaks off,
    once. hang: bytes after which a body stands still; hung says that one does."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.log, self.cut = folder, list[tuple[str, str, str | None]](), 0
        self.hang, self.hung = 0, threading.Event()

    def download(self, part: str, output: Path) -> subprocess.CompletedProcess[str]:
        """`fm-pose download bop` from this server."""
        return subprocess.run(**self.command(part, output), capture_output=True, text=True)

    def command(self, part: str, output: Path) -> dict[str, Any]:
        """Arguments of subprocess for it."""
        endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        words = f"download bop --dataset lmo --parts {part} --output".split()
        return {
            "args": [sys.executable, "-m", "fm_pose_core.cli", *words, str(output)],
            "env": {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"},
            "cwd": Path(__file__).parents[1],
        }


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    repository = "/datasets/bop-benchmark/lmo/resolve/main/"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        if content and self.server.cut:
            content, self.server.cut = content[: self.server.cut], 0
        if content and self.server.hang:
            self.wfile.write(content[: self.server.hang])
            self.wfile.flush()
            self.server.hung.set()
            self.connection.settimeout(60)
            self.rfile.read(1)  # until the other side has gone
            return
        self.wfile.write(content)

    def answer(self) -> bytes:
        """Send the headers; the body that belongs to them."""
        path = self.server.folder / self.path.removeprefix(self.repository)
        if not self.path.startswith(self.repository) or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        content, wanted = path.read_bytes(), self.headers["Range"]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.server.log.append((self.command, path.name, wanted))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        return content[start:]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A hub without files; a test puts them into its folder."""
    (tmp_path / "hub").mkdir()
    server = Server(tmp_path / "hub")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def check(folder: Path) -> None:
    dataset = BopDataset(folder)
    assert len(dataset.instances("test")) == 8 and dataset.targets()
    assert sorted(p.name for p in folder.iterdir()) == [
        ".downloaded.json",
        "camera.json",
        "models",
        "test",
        "test_targets_bop19.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["lmo"]  # nothing is left over


@pytest.mark.parametrize("kind", ["folder", "file", "nested"])
def test_from_a_folder(archives: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = {"folder": str(archives), "file": archives.as_uri(), "nested": str(tmp_path / "hub")}[kind]
    if kind == "nested":
        shutil.copytree(archives, tmp_path / "hub" / "lmo")
    out = tmp_path / "data"
    assert (
        main(
            [
                "download",
                "bop",
                "--dataset",
                "lmo",
                "--parts",
                ",".join(PARTS),
                "--output",
                str(out),
                "--mirror",
                mirror,
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == str(out / "lmo")
    check(out / "lmo")


def test_from_the_hub(server: Server, archives: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [download]")
    shutil.copytree(archives, server.folder, dirs_exist_ok=True)
    done = server.download(",".join(PARTS), tmp_path / "data")
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "data" / "lmo"), done.stderr
    check(tmp_path / "data" / "lmo")
    assert server.log == [(m, f"lmo_{part}.zip", None) for part in PARTS for m in ("HEAD", "GET")]
    assert server.download(",".join(PARTS), tmp_path / "data").returncode == 0
    assert len(server.log) == 2 * len(PARTS)  # all there: no more requests


def test_a_broken_download_goes_on(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [download]")
    big = np.random.default_rng(0).bytes(25_000_000)  # huggingface_hub writes blocks of 10 MB
    with zipfile.ZipFile(server.folder / "lmo_base.zip", "w") as z:
        z.writestr("lmo/big", big)
    server.cut = 12_000_000
    failed = server.download("base", tmp_path / "data")
    assert failed.returncode == 2 and "run the command again to go on from there" in failed.stderr
    assert server.download("base", tmp_path / "data").returncode == 0
    asked = [wanted for method, _, wanted in server.log if method == "GET"]
    assert asked[0] is None and len(asked) == 2 and 0 < int(asked[1][6:-1]) <= 12_000_000
    assert (tmp_path / "data" / "lmo" / "big").read_bytes() == big


def test_a_killed_command_goes_on(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [download]")
    big = np.random.default_rng(0).bytes(25_000_000)
    with zipfile.ZipFile(server.folder / "lmo_base.zip", "w") as z:
        z.writestr("lmo/big", big)
    server.hang = 22_000_000
    process = subprocess.Popen(**server.command("base", tmp_path / "data"))
    server.hung.wait(60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not _received(tmp_path / "data") > 8_000_000:
        time.sleep(0.05)
    process.kill()
    process.wait()
    server.hang = 0
    assert server.download("base", tmp_path / "data").returncode == 0
    asked = [wanted for method, _, wanted in server.log if method == "GET"]
    assert asked[0] is None and 8_000_000 < int(asked[-1][6:-1]) <= 22_000_000
    assert (tmp_path / "data" / "lmo" / "big").read_bytes() == big


def _received(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*.incomplete"))


def test_failures_of_the_hub_are_named(server: Server, archives: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the extra [download]")
    content = bytearray((archives / "lmo_test_bop19.zip").read_bytes())
    content[200] ^= 255
    (server.folder / "lmo_test_bop19.zip").write_bytes(content)
    for part, message in (("train_pbr", "got no such file"), ("test_bop19", "expected a whole ZIP archive")):
        failed = server.download(part, tmp_path / "data")
        assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
        assert list((tmp_path / "data" / "lmo").iterdir()) == []
    shutil.copy(archives / "lmo_test_bop19.zip", server.folder)  # the damaged one was deleted, this one is fetched
    assert server.download("test_bop19", tmp_path / "data").returncode == 0
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["lmo"]


def test_the_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'fm-pose\[download\]'"):
        download_bop("lmo", tmp_path, ["base"])


def test_failures_are_named(archives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lmo_train_pbr\.zip"):
        download_bop("lmo", tmp_path, ["train_pbr"], str(archives))
    with pytest.raises(InputError, match="mirror: expected a folder"):
        download_bop("lmo", tmp_path, ["base"], "http://127.0.0.1:9")
    with pytest.raises(InputError, match="dataset: expected one of lm, lmo"):
        download_bop("nothing", tmp_path, ["base"])
    with pytest.raises(InputError, match="dataset"):
        download_bop("../x", tmp_path, ["base"], str(archives))
    with pytest.raises(InputError, match="part: expected a name like base"):
        download_bop("lmo", tmp_path, ["../x"], str(archives))
    with pytest.raises(InputError, match="mirror"):
        download_bop("lmo", tmp_path, ["base"], str(tmp_path / "nowhere"))


def test_checksums(archives: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((archives / "lmo_base.zip").read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  lmo_base.zip\n{'0' * 64} *lmo_models.zip\n")
    checksums = read_checksums(tmp_path / "SHA256SUMS")
    download_bop("lmo", tmp_path / "data", ["base"], str(archives), checksums)
    with pytest.raises(InputError, match="expected SHA-256 000"):
        download_bop("lmo", tmp_path / "data", ["models"], str(archives), checksums)
    assert not (tmp_path / "data" / "lmo" / "models").exists()
    (tmp_path / "bad").write_text("hello\n")
    with pytest.raises(InputError, match="SHA-256 and file name"):
        read_checksums(tmp_path / "bad")


def test_a_damaged_archive_leaves_nothing(archives: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    content = bytearray((archives / "lmo_test_bop19.zip").read_bytes())
    content[200] ^= 255
    for damaged in (bytes(content), bytes(content[: len(content) // 2]), b""):
        (hub / "lmo_test_bop19.zip").write_bytes(damaged)
        with pytest.raises(InputError, match="expected a whole ZIP archive"):
            download_bop("lmo", tmp_path / "data", ["test_bop19"], str(hub))
        assert list((tmp_path / "data" / "lmo").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "lmo/../../evil", "..\\evil", "C:/evil"])
def test_a_member_outside_of_the_dataset_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data" / "lmo"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr("good.txt", "good")
        z.writestr(name, "evil")
    with pytest.raises(InputError, match="a path inside the dataset"):
        unpack(tmp_path / "x.zip", folder)
    assert list(folder.iterdir()) == [] and not list(tmp_path.rglob("*evil"))


def test_a_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr(info, "/etc")
    (tmp_path / "lmo").mkdir()
    with pytest.raises(InputError, match="a link or a device"):
        unpack(tmp_path / "x.zip", tmp_path / "lmo")


def test_more_content_than_the_disk_holds_is_refused(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(InputError, match="free disk space"):
        download_bop("lmo", tmp_path, ["models"], str(archives))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("n" * 300,)])
def test_members_that_cannot_all_be_files_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    (tmp_path / "lmo").mkdir()
    with pytest.raises(InputError, match=r"x\.zip, member .*: expected a file of its own"):
        unpack(tmp_path / "x.zip", tmp_path / "lmo")
    assert not list((tmp_path / "lmo").iterdir())


def test_an_encrypted_archive_is_no_damaged_one(archives: Path, tmp_path: Path) -> None:
    data = bytearray((archives / "lmo_models.zip").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 1)
    (tmp_path / "lmo_models.zip").write_bytes(data)
    with pytest.raises(
        InputError, match=r"lmo_models\.zip: expected a ZIP archive that Python unpacks, got .*encrypted"
    ):
        download_bop("lmo", tmp_path / "out", ["models"], str(tmp_path))
