"""The index: written whole, read with suspicion."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepal_provisioner.catalog import Problem
from sepal_provisioner.errors import StoreError
from sepal_provisioner.index import CatalogState, Index, Kernel, read_index, write_index

KERNEL = Kernel(
    name="venv-esbae_notebooks",
    app="eSBAE_notebooks",
    label="eSBAE notebooks — Forêts 森林",
    repository="https://github.com/sepal-contrib/eSBAE_notebooks",
    checkout="eSBAE_notebooks",
    commit="8a382a9482f0448d79c3ece12dd330a16be78ae9",
    environment_file="sepal_environment.yml",
    fingerprint="0123456789abcdef",
    catalog="/srv/apps.json",
    resources="venv-esbae_notebooks",
    problem="git took too long",
)
INDEX = Index(
    written=1_700_000_000.5,
    kernels=(KERNEL,),
    catalogs=(CatalogState("/srv/apps.json", 1_700_000_000.25, 28, "HTTP 500"),),
    problems=(Problem("apps[7].repository", "no"),),
)


def document(path: Path) -> dict[str, Any]:
    """The JSON document of the full index."""
    write_index(path, INDEX)
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def refused(path: Path, content: Any) -> str:
    """Why an index with this content can't be read."""
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=path.name) as raised:
        read_index(path)
    return str(raised.value)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Every field of kernels, catalogs and problems arrives, and nothing is left beside the file."""
    path = tmp_path / "index.json"
    write_index(path, INDEX)
    assert read_index(path) == INDEX
    assert os.listdir(tmp_path) == ["index.json"]
    write_index(path, Index())
    assert read_index(path) == Index()


def test_a_kernel_is_found_by_its_name_in_any_case() -> None:
    """Notebooks may spell a kernel as the repository is spelt, and unknown names give nothing."""
    assert INDEX.get("venv-eSBAE_notebooks") is KERNEL
    assert INDEX.get("venv-gwb") is None
    assert KERNEL.display_name == "(venv) eSBAE notebooks — Forêts 森林"


def test_a_missing_index_is_an_empty_one(tmp_path: Path) -> None:
    """Before the first sync, and where there isn't even a store, there simply are no kernels."""
    assert read_index(tmp_path / "index.json") == Index()
    (tmp_path / "file").touch()
    assert read_index(tmp_path / "file" / "index.json") == Index()


def test_half_an_index_is_never_taken_for_an_empty_one(tmp_path: Path) -> None:
    """Wherever a file is cut off, reading it is an error instead of a store without kernels."""
    path = tmp_path / "index.json"
    write_index(path, INDEX)
    content = path.read_bytes()
    for length in range(len(content.rstrip())):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"not JSON|not UTF-8"):
            read_index(path)


def test_an_index_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder, a FIFO or a loop of links in the index's place is an error, not an empty index, and never hangs."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("link")
    for name in ("folder", "fifo", "link"):
        with pytest.raises(ValueError, match=r"not a regular file|symbolic links"):
            read_index(tmp_path / name)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    """An index that a later version wrote is not guessed at."""
    path = tmp_path / "index.json"
    for version in (2, "1", None):
        assert "another version" in refused(path, {**document(path), "version": version})


def test_unknown_keys_are_left_out(tmp_path: Path) -> None:
    """What a later version adds to an entry costs nobody the index."""
    path = tmp_path / "index.json"
    changed = document(path)
    changed["kernels"][0]["colour"] = "green"
    changed["catalogs"][0]["colour"] = "green"
    changed["colour"] = "green"
    path.write_text(json.dumps(changed), encoding="utf-8")
    assert read_index(path) == INDEX


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "venv-"),
        ("name", "venv-.."),
        ("name", "venv-../../etc"),
        ("name", "venv-a/b"),
        ("name", "venv-A"),
        ("name", "venv-a\n"),
        ("name", "python3"),
        ("name", "../venv-a"),
        ("name", ""),
        ("name", None),
        ("name", 7),
        ("checkout", "../outside"),
        ("checkout", "/etc"),
        ("checkout", ".."),
        ("checkout", "."),
        ("checkout", ""),
        ("checkout", "a\0b"),
        ("checkout", ["a"]),
        ("environment_file", "../../etc/passwd"),
        ("environment_file", "/etc/passwd"),
        ("environment_file", ".."),
        ("environment_file", ""),
        ("resources", "../../etc"),
        ("resources", ".."),
        ("resources", "/etc"),
        ("fingerprint", "../0123456789abc"),
        ("fingerprint", "0123456789abcdef0"),
        ("fingerprint", "0123456789ABCDEF"),
        ("fingerprint", ""),
        ("label", None),
        ("label", {"en": "a"}),
    ],
)
def test_names_that_could_leave_the_store_are_refused(field: str, value: Any, tmp_path: Path) -> None:
    """Whoever may write an index can't make a reader look, or delete, outside the store."""
    path = tmp_path / "index.json"
    changed = document(path)
    changed["kernels"][0][field] = value
    assert refused(path, changed)


@pytest.mark.parametrize(
    "change",
    [
        {"written": None},
        {"written": "yesterday"},
        {"written": 10**400},
        {"written": float("nan")},
        {"kernels": None},
        {"kernels": {"a": {}}},
        {"kernels": ["venv-gwb"]},
        {"kernels": "venv-gwb"},
        {"kernels": [None]},
        {"kernels": [{}]},
        {"catalogs": [["a"]]},
        {"catalogs": ["a"]},
        {"catalogs": [{}]},
        {"catalogs": [{"source": 5}]},
        {"catalogs": [{"source": "a", "fetched": "yesterday"}]},
        {"catalogs": [{"source": "a", "fetched": float("inf")}]},
        {"catalogs": [{"source": "a", "apps": None}]},
        {"problems": [{"place": "a"}]},
        {"problems": [{"place": "a", "message": 1}]},
        {"problems": 5},
    ],
    ids=str,
)
def test_a_document_of_another_shape_is_a_value_error(change: dict[str, Any], tmp_path: Path) -> None:
    """Each part of another type is a ValueError that names the file."""
    path = tmp_path / "index.json"
    assert refused(path, {**document(path), **change})


def test_an_index_that_cannot_be_written_is_a_store_error_and_the_old_one_stays(tmp_path: Path) -> None:
    """Where the index can't be replaced there is an error a person can act on."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        write_index(tmp_path / "file" / "index.json", INDEX)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
kernels = st.dictionaries(st.sampled_from(sorted(KERNEL.__dict__)), json_values, max_size=3).map(
    lambda more: {**KERNEL.__dict__, **more}
)
indexes = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "written": st.just(0) | json_values,
        "kernels": st.lists(kernels | json_values, max_size=2) | json_values,
        "catalogs": st.just([]) | json_values,
        "problems": st.just([]) | json_values,
    }
)
PLACE: dict[str, Path] = {}


@given(indexes | json_values)
def test_any_json_is_an_index_or_a_value_error(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    """Whatever stands in the file, reading gives a ValueError or an index that can be written again."""
    path = PLACE.setdefault("at", tmp_path_factory.mktemp("index")) / "index.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        index = read_index(path)
    except ValueError as error:
        assert str(path) in str(error) or "it is" in str(error)
        return
    write_index(path, index)
    assert read_index(path) == index
