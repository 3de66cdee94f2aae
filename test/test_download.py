"""The download command on local copies of a small dataset: a folder, and a web server on this machine."""

import hashlib
import http.server
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

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
    """Serves a folder. log: (path, Range, status). cut: bytes after which a body breaks off. tags, ranges: whether the
    server sends an ETag, and parts of a file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.log, self.cut, self.ranges = folder, list[tuple[str, str | None, int]](), 0, True
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hub"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        content, wanted = path.read_bytes(), self.headers["Range"]
        tag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
        start, status = 0, 200
        if wanted and self.server.ranges and self.headers["If-Range"] == tag:
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                self.send_error(416)
                return
        self.server.log.append((path.name, wanted, status))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", tag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : start + self.server.cut] if self.server.cut else content[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(archives: Path) -> Iterator[Server]:
    server = Server(archives)
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


def test_from_a_server(server: Server, tmp_path: Path) -> None:
    check(download_bop("lmo", tmp_path, PARTS, server.url))
    assert [status for _, _, status in server.log] == [200, 200, 200]
    check(download_bop("lmo", tmp_path, PARTS, server.url))  # all there: no more requests
    assert len(server.log) == 3


def test_a_broken_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut = 1500
    for length in (1500, 3000):
        with pytest.raises(InputError, match=f"expected .* bytes, got {length}; run the command again"):
            download_bop("lmo", tmp_path, ["test_bop19"], server.url)
    assert list((tmp_path / "lmo").iterdir()) == []
    server.cut = 0
    download_bop("lmo", tmp_path, PARTS, server.url)
    requests = [(asked, status) for name, asked, status in server.log if "test_bop19" in name]
    assert requests == [(None, 200), ("bytes=1500-", 206), ("bytes=3000-", 206)]
    check(tmp_path / "lmo")


def test_a_whole_download_that_was_not_unpacked_is_used(server: Server, archives: Path, tmp_path: Path) -> None:
    download_bop("lmo", tmp_path, ["base"], server.url)
    shutil.copy(archives / "lmo_models.zip", tmp_path / ".lmo_models.zip.part")
    tag = hashlib.sha256((archives / "lmo_models.zip").read_bytes()).hexdigest()[:16]
    (tmp_path / ".lmo_models.zip.etag").write_text(f'"{tag}"')
    server.log.clear()
    download_bop("lmo", tmp_path, ["models"], server.url)
    assert server.log == [] and (tmp_path / "lmo" / "models").is_dir()


@pytest.mark.parametrize("change", ["another file", "no parts"])
def test_a_file_that_changed_or_comes_whole_is_read_from_the_start(server: Server, tmp_path: Path, change: str) -> None:
    (tmp_path / ".lmo_base.zip.part").write_bytes(b"x" * 100)
    tag = hashlib.sha256((server.folder / "lmo_base.zip").read_bytes()).hexdigest()[:16]
    (tmp_path / ".lmo_base.zip.etag").write_text('"old"' if change == "another file" else f'"{tag}"')
    server.ranges = change == "another file"
    download_bop("lmo", tmp_path, ["base"], server.url)
    assert server.log == [("lmo_base.zip", "bytes=100-", 200)]
    assert (tmp_path / "lmo" / "camera.json").is_file()


def test_failures_are_named(server: Server, archives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HTTP 404"):
        download_bop("lmo", tmp_path, ["train_pbr"], server.url)
    with pytest.raises(InputError, match=r"lmo_train_pbr\.zip"):
        download_bop("lmo", tmp_path, ["train_pbr"], str(archives))
    with pytest.raises(InputError, match="run the command again"):
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
