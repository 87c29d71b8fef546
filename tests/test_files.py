"""Reading within bounds and writing by rename, on real file systems: full ones, read-only ones, odd ones."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepal_provisioner import files
from sepal_provisioner.errors import NoSpaceError, StoreError
from sepal_provisioner.files import (
    decode_json,
    human_size,
    human_time,
    is_number,
    read_bounded,
    read_json,
    remove_tree,
    resolve_inside,
    store_error,
    tree_size,
    writable,
    write_atomic,
    write_json,
)

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
MOUNTS = (
    shutil.which("unshare") is not None
    and subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0
)
own_mounts = pytest.mark.skipif(not MOUNTS, reason="a file system of one's own (unshare --mount) isn't to be had here")


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files included."""
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------------------------------- reading


def test_a_file_up_to_the_limit_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    """The limit itself still passes, and the error of a file that is larger says how much is allowed."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2_000)
    assert read_bounded(path, 2_000) == b"x" * 2_000
    with pytest.raises(ValueError, match=r"larger than 2\.0 kB"):
        read_bounded(path, 1_999)


def test_a_sparse_terabyte_is_refused_without_reading_it(tmp_path: Path) -> None:
    """A file that pretends to be a terabyte costs no more than the limit."""
    path = tmp_path / "file"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than"):
        read_bounded(path, 1_000)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO, a folder and a device are refused instead of waited for, and leave no open descriptor behind."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "fifo", tmp_path / "folder", Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            read_bounded(path, 1_000)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    """A file that isn't there, and a name that can't be one, are told apart from a file that can't be used."""
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "missing", 1)
    with pytest.raises(OSError, match="too long"):
        read_bounded(tmp_path / ("x" * 300), 1)


def test_json_says_where_it_is_wrong(tmp_path: Path) -> None:
    """Each way in which a file is no JSON document is a ValueError with its place, and a sound one is read."""
    path = tmp_path / "file.json"
    cases: dict[bytes, str] = {
        b'{"a": 1,}': "line 1, column 9",
        b'{"a":\n\n x}': "line 3, column 2",
        b"\xff": "not UTF-8 .byte 0",
        b"[" * 100_000: "nested",
        b"": "not JSON",
        b"1" * 10_000: "digits",
    }
    for content, words in cases.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_json(path)
    path.write_bytes('\ufeff{"é": [1.5, null]}'.encode())
    assert read_json(path) == {"é": [1.5, None]}
    with pytest.raises(ValueError, match="larger than"):
        read_json(path, 3)


@given(st.binary(max_size=100) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_a_value_error(data: bytes) -> None:
    """Whatever bytes arrive, decoding gives a document or a ValueError that has words."""
    try:
        document = decode_json(data)
    except ValueError as error:
        assert str(error)
    else:
        json.dumps(document)


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, True), (-1.5, True), (10**300, True), (10**400, False), (float("nan"), False), (float("inf"), False)]
    + [(value, False) for value in (True, None, "1", [1])],
)
def test_a_number_can_be_calculated_with(value: Any, number: bool) -> None:
    """What JSON gives for a number counts only when it is one and finite."""
    assert is_number(value) is number


# ------------------------------------------------------------------------------------------------------- writing


def test_writing_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """The new content stands under the old name, with the mode asked for, and no temporary file is left."""
    path = tmp_path / "deep" / "er" / "file"
    write_atomic(path, "first")
    write_atomic(path, b"\x00second", mode=0o600)
    assert path.read_bytes() == b"\x00second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(path.parent) == ["file"]


def test_a_reader_keeps_the_file_that_it_has_open(tmp_path: Path) -> None:
    """Whoever reads while somebody writes sees the old content to its end."""
    path = tmp_path / "file"
    write_atomic(path, "old")
    with path.open() as stream:
        write_atomic(path, "new")
        assert stream.read() == "old"
    assert path.read_text() == "new"


def test_json_is_written_as_people_can_read_it(tmp_path: Path) -> None:
    """Text in any script stays as it is, and what was written is read back."""
    document = {"label": "Forêts 森林", "list": [1, None]}
    write_json(tmp_path / "file.json", document)
    assert "Forêts 森林" in (tmp_path / "file.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "file.json") == document


def test_half_a_character_can_be_written_and_read_back(tmp_path: Path) -> None:
    """Half of a surrogate pair, which JSON from elsewhere may hold, costs nobody a whole document."""
    document = {"label": "half \ud800"}
    write_json(tmp_path / "file.json", document)
    assert read_json(tmp_path / "file.json") == document


def test_a_folder_in_the_way_is_a_store_error_and_nothing_is_left(tmp_path: Path) -> None:
    """When the rename fails the error names the path and the setting, and the temporary file is gone."""
    path = tmp_path / "file"
    (path / "inner").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"file can't be written: .*c\.Sepal\.store"):
        write_atomic(path, "text")
    assert names(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be_is_a_store_error(tmp_path: Path) -> None:
    """A store below a file is an error that a person can act on."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"c\.Sepal\.store") as raised:
        write_atomic(tmp_path / "file" / "inner", "text")
    assert raised.value.code == "store-unusable"


def test_a_failure_that_is_no_oserror_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is interrupted while writing leaves no temporary file behind."""

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "text")
    assert names(tmp_path) == []


SCRIPT = """
import os, sys
from pathlib import Path
from sepal_provisioner.errors import StoreError
from sepal_provisioner.files import write_atomic
path = Path(sys.argv[1]) / "file"
write_atomic(path, "kept")
{between}
try:
    write_atomic(path, b"x" * 1_000_000)
except StoreError as error:
    print(error.code, type(error).__name__)
print(path.read_text()[:10], sorted(os.listdir(path.parent)))
"""


def on_own_file_system(folder: Path, between: str = "pass") -> list[str]:
    """Write a file, then a larger one, on a file system of 100 kB that exists for this test only."""
    mount = 'mount -t tmpfs -o size=100k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = [*UNSHARE, "sh", "-c", mount, "sh", str(folder), sys.executable, SCRIPT.format(between=between)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@own_mounts
def test_a_full_disk_is_an_error_of_its_own_and_the_old_file_stays(tmp_path: Path) -> None:
    """On a file system that is full the error is `no-space`, the old content is whole and nothing lies beside it."""
    assert on_own_file_system(tmp_path) == ["no-space NoSpaceError", "kept ['file']"]


@own_mounts
def test_a_read_only_file_system_is_a_store_error_and_the_old_file_stays(tmp_path: Path) -> None:
    """On a file system that is mounted read-only the error is `store-unusable` and nothing changes."""
    between = "import subprocess; subprocess.run(['mount', '-o', 'remount,ro', sys.argv[1]], check=True)"
    assert on_own_file_system(tmp_path, between) == ["store-unusable StoreError", "kept ['file']"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_told_apart(number: int) -> None:
    """A full disk and a full quota have an answer of their own, and the message names the path."""
    error = store_error(OSError(number, os.strerror(number)), Path("/store/file"))
    assert isinstance(error, NoSpaceError)
    assert "/store/file" in error.message
    assert not isinstance(store_error(OSError(errno.EACCES, "no"), Path("/store")), NoSpaceError)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_may_not_write() -> None:
    """`writable` looks as the user who asks, and what that user can't even see is not writable either."""
    script = """
import os, sys
from pathlib import Path
from sepal_provisioner.files import writable
root = Path(sys.argv[1])
folders = [root, root / "not/there", root / "hidden", root / "hidden/not/there"]
print([writable(folder) for folder in folders])
os.setgid(65534)
os.setuid(65534)
print([writable(folder) for folder in folders])
"""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        (Path(root) / "hidden").mkdir(mode=0o700)
        done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str([True] * 4), str([False] * 4)]


def test_writable_looks_and_creates_nothing(tmp_path: Path) -> None:
    """A folder that could be created counts as writable and isn't created; a file in the way does not count."""
    assert writable(tmp_path / "a" / "b")
    assert names(tmp_path) == []
    (tmp_path / "file").touch()
    assert not writable(tmp_path / "file")
    assert not writable(tmp_path / "file" / "inner")


# --------------------------------------------------------------------------------------------------------- paths


def test_links_are_followed_and_never_out(tmp_path: Path) -> None:
    """A path inside is resolved through links; one that leads out, by dots, by root or by link, is a ValueError."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "in").symlink_to("folder")
    (root / "out").symlink_to(tmp_path)
    (root / "round").symlink_to("round")
    (tmp_path / "rooter").mkdir()
    assert resolve_inside(root, "in/file") == root / "folder" / "file"
    assert resolve_inside(root, "folder/../in") == root / "folder"
    assert resolve_inside(root, ".") == root
    for relative in ("..", "../rooter", "/etc/passwd", "out/file", "in/../..", "folder/../../other", "a\0b"):
        with pytest.raises(ValueError, match=r"leads out|null"):
            resolve_inside(root, relative)


def test_a_link_round_and_round_is_never_followed_for_ever(tmp_path: Path) -> None:
    """A link that leads to itself can't be read, whatever this version of Python says of it."""
    (tmp_path / "round").symlink_to("round")
    with pytest.raises((ValueError, OSError)):
        read_bounded(resolve_inside(tmp_path, "round"), 10)


def test_a_root_that_is_a_link_is_resolved_itself(tmp_path: Path) -> None:
    """A store reached through a link is as good as one that isn't."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve_inside(tmp_path / "link", "file") == tmp_path / "real" / "file"


def test_a_tree_counts_each_file_once(tmp_path: Path) -> None:
    """A file with several names counts once, links aren't followed, and a missing folder is empty."""
    one, two = tmp_path / "tree" / "one", tmp_path / "tree" / "deep" / "two"
    two.parent.mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"x" * 1_000_000)
    one.write_bytes(b"x" * 100_000)
    os.sync()
    single = tree_size(tmp_path / "tree")
    assert 100_000 <= single <= 200_000
    two.hardlink_to(one)
    (one.parent / "link").symlink_to(tmp_path / "outside")
    (one.parent / "folder").symlink_to(tmp_path)
    assert single <= tree_size(tmp_path / "tree") <= single + 20_000
    shutil.copyfile(one, one.parent / "copy")
    os.sync()
    assert tree_size(tmp_path / "tree") >= 2 * single
    assert tree_size(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_400_000_000, "1.4 GB"), (5e15, "5000.0 TB")],
)
def test_sizes_for_people(size: float, text: str) -> None:
    """A size has a number of a handy length and a unit."""
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (125, "2 min 05 s"), (4_800, "1 h 20 min"), (90_000, "25 h 00 min")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """A duration has the two units that matter."""
    assert human_time(seconds) == text


def test_a_folder_of_any_depth_is_removed_and_what_links_lead_to_stays(tmp_path: Path) -> None:
    """Three thousand folders below one another, whose path no call would take, are removed; linked files are not."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(
        [sys.executable, "-c", "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('f', 'w')"],
        cwd=tree,
        check=True,
    )
    (tree / "link").symlink_to("../kept")
    (tmp_path / "alias").symlink_to("kept")
    remove_tree(tree)
    remove_tree(tmp_path / "alias")
    remove_tree(tmp_path / "not there")
    assert sorted(os.listdir(tmp_path)) == ["alias", "kept"]
    assert (tmp_path / "kept" / "file").exists()
