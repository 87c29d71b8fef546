"""Environment files as values: what they hold, what their fingerprint depends on, and what is said of a bad one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from sepal_provisioner.envfile import (
    CONDA_FILE,
    REQUIREMENTS_FILE,
    EnvironmentFile,
    find_environment_file,
    parse_conda,
    parse_requirements,
    read_environment_file,
    spec_name,
)
from sepal_provisioner.errors import EnvironmentFileError
from sepal_provisioner.requirements import FILE_LIMIT, INCLUDE_LIMIT, REFERENCE_LIMIT, pip_target

REAL = SHARED / "environments"

# Modelled on what real repositories ship.
RIVERS = """\
name: basin-rivers
channels:
  - conda-forge
  - defaults
dependencies:
  - python=3.10
  - sepal-ui>=2.22.1,<3
  - pyproj # Always include to avoid PROJ conflicts
  - gdal=3.8.3
  - conda-forge::rasterio 1.3.* py310*
  - pip
  - pip:
      # the tag that the platform runs
      - git+https://github.com/openforis/earthengine-api.git@v1.1.5rc0#egg=earthengine-api&subdirectory=python
      - -e .
variables:
  GREETING: "$(touch /tmp/never) stays"
  LIMIT: 010
prefix: /home/somebody/miniconda3/envs/rivers"""


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A checkout with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(checkout: Path) -> EnvironmentFile:
    """The environment file that a checkout ships."""
    path = find_environment_file(checkout)
    assert path is not None
    return read_environment_file(checkout, path)


def conda(*dependencies: str, pip: tuple[str, ...] = (), more: str = "") -> str:
    """A conda file with these dependencies and pip lines."""
    lines = ["channels:", "  - conda-forge", "dependencies:", *[f"  - {spec}" for spec in dependencies]]
    lines += ["  - pip:", *[f"    - {json.dumps(line)}" for line in pip]] if pip else []
    return "\n".join([*lines, more])


# ------------------------------------------------------------------------------------------------------- parsing


def test_a_real_file_arrives_whole() -> None:
    """Every section of a file as people write them arrives: specs as text, comments gone, variables untouched."""
    file = parse_conda(RIVERS)
    assert (file.kind, file.path, file.name) == ("conda", CONDA_FILE, "basin-rivers")
    assert file.channels == ("conda-forge", "defaults")
    assert file.dependencies == (
        "python=3.10",
        "sepal-ui>=2.22.1,<3",
        "pyproj",
        "gdal=3.8.3",
        "conda-forge::rasterio 1.3.* py310*",
        "pip",
    )
    assert file.pip == (
        "git+https://github.com/openforis/earthengine-api.git@v1.1.5rc0#egg=earthengine-api&subdirectory=python",
        "-e .",
    )
    assert file.variables == (("GREETING", "$(touch /tmp/never) stays"), ("LIMIT", "010"))
    assert file.warnings == ()
    assert file.names() == {"python", "sepal-ui", "pyproj", "gdal", "rasterio", "pip"}


def test_values_that_look_like_numbers_stay_texts() -> None:
    """YAML's own ideas of 3.10, yes, 1e3 and dates change no spec, no name and no variable."""
    file = parse_conda("name: 3.10\ndependencies: [7zip, yes]\nvariables: {A: 1.10, B: yes, C: 2020-01-01, D: ''}")
    assert file.name == "3.10"
    assert file.dependencies == ("7zip", "yes")
    assert file.variables == (("A", "1.10"), ("B", "yes"), ("C", "2020-01-01"), ("D", ""))


def test_sections_without_content_are_as_if_they_were_absent() -> None:
    """An empty `name:`, `channels:` or `variables:` is no fault."""
    file = parse_conda("name:\nchannels:\nvariables: ~\ndependencies:\n  - python")
    assert (file.name, file.channels, file.variables) == ("", (), ())


def test_a_file_may_hold_pip_lines_only() -> None:
    """A pip section alone is an environment."""
    assert parse_conda("dependencies:\n  - pip:\n    - numpy").pip == ("numpy",)


def test_windows_line_ends_and_a_byte_order_mark_are_no_fault(tmp_path: Path) -> None:
    """A file that was written on Windows holds the same environment, with the same fingerprint."""
    text = conda("python", "numpy")
    unix = read(write(tmp_path / "unix", {CONDA_FILE: text}))
    windows = read(write(tmp_path / "windows", {CONDA_FILE: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()}))
    assert windows == unix


def test_aliases_within_bounds_are_read() -> None:
    """An alias is read as what it stands for."""
    file = parse_conda("dependencies:\n  - &py python=3.10\n  - pip:\n    - *py")
    assert (file.dependencies, file.pip) == (("python=3.10",), ("python=3.10",))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("gdal", "gdal"),
        ("GDAL=3.8.*", "gdal"),
        ("conda-forge::gdal >=3,<4", "gdal"),
        ("conda-forge/linux-64::gdal==3.8.3=h1_0", "gdal"),
        ("numpy[version='>=1.2']", "numpy"),
        ("_libgcc_mutex", "_libgcc_mutex"),
        ("lib*", "lib*"),
        ("!", "!"),
    ],
)
def test_the_name_of_a_match_spec(spec: str, name: str) -> None:
    """The package's name is found in every spelling of a match spec, in lower case."""
    assert spec_name(spec) == name


def test_requirements_are_logical_lines() -> None:
    """Comments and blank lines go, continued lines are joined, and a `#` inside a URL is no comment."""
    text = "# packages\n\nvoila  # the server\nrasterio \\\n  <1.3.11\ngit+https://h/a.git#egg=a\n   \nlast"
    file = parse_requirements(text)
    assert (file.kind, file.path) == ("requirements", REQUIREMENTS_FILE)
    assert file.pip == ("voila", "rasterio <1.3.11", "git+https://h/a.git#egg=a", "last")
    assert parse_requirements("a \\").pip == ("a",)
    assert parse_requirements("").pip == ()


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("-r base.txt", ("-r", "base.txt")),
        ("-rbase.txt", ("-r", "base.txt")),
        ("--requirement=base.txt", ("-r", "base.txt")),
        ("-c 'pins.txt'", ("-c", "pins.txt")),
        ("--constraint pins.txt", ("-c", "pins.txt")),
        ("-e .", ("-e", ".")),
        ("--editable ./pkg[extra]", ("-e", "./pkg[extra]")),
        ("./pkg ; python_version > '3'", ("path", "./pkg")),
        ("file:pkg", ("path", "file:pkg")),
        ("-e git+https://h/a.git", ("", "")),
        ("-e file:///srv/pkg", ("-e", "file:///srv/pkg")),
        ("-e 'pkg @ ./pkg'", ("-e", "./pkg")),
        ("-r 'two words.txt'", ("-r", "two words.txt")),
        ("-r base.txt # the rest", ("-r", "base.txt")),
        ("-f ./wheels", ("-f", "./wheels")),
        ("--find-links=https://h/wheels", ("", "")),
        ("pkg[all] @ ./pkg ; python_version > '3'", ("path", "./pkg")),
        ("pkg @ https://h/pkg.zip", ("", "")),
        ("sub/pkg", ("path", "sub/pkg")),
        ("a-1-py3-none-any.whl", ("path", "a-1-py3-none-any.whl")),
        ("odd://sub/pkg", ("path", "odd://sub/pkg")),
        ("numpy==1.0 --config-settings=a=/b", ("", "")),
        ("numpy # see a/b", ("", "")),
        ("git+ssh://git@h/a.git", ("", "")),
        ("numpy", ("", "")),
        ("--index-url https://h/simple", ("", "")),
        ("--requirements-of-something x", ("", "")),
    ],
)
def test_what_a_requirement_line_refers_to(line: str, target: tuple[str, str]) -> None:
    """Each spelling of an option that pip knows is told apart from a plain requirement."""
    assert pip_target(line) == target


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real environment files aren't here: {REAL}")
@pytest.mark.parametrize("path", sorted(REAL.glob("*")) or [None], ids=lambda path: path.name if path else "none")
def test_every_real_file_parses_without_a_warning(path: Path, tmp_path: Path) -> None:
    """Files that are in use on the platform parse to what stands in them, line for line."""
    conda_file = path.suffix == ".yml"
    name = CONDA_FILE if conda_file else REQUIREMENTS_FILE
    text = path.read_text(encoding="utf-8")
    file = read(write(tmp_path, {name: text, "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n"}))
    assert file.warnings == ()
    stripped = [line.strip() for line in text.splitlines()]
    if conda_file:
        items = [line[2:].partition(" #")[0].strip() for line in stripped if line.startswith("- ")]
        assert [*file.channels, *file.dependencies, *file.pip] == [item for item in items if item != "pip:"]
        assert f"name: {file.name}" in stripped
    else:
        plain = [line.partition(" #")[0].strip() for line in stripped]
        assert list(file.pip) == [line for line in plain if line and not line.startswith("#")]


def test_json_round_trip() -> None:
    """A file that went through JSON is equal to what it was, fingerprint included."""
    file = parse_conda(RIVERS + "\nvariabels: {A: b}")
    again = EnvironmentFile.from_json(json.loads(json.dumps(file.to_json())))
    assert file.warnings
    assert again == file
    assert again.fingerprint() == file.fingerprint()


# --------------------------------------------------------------------------------------------------- fingerprint


SAME = {
    "a comment": lambda text: "# a comment\n" + text.replace("  - gdal=3.8.3", "  - gdal=3.8.3  # pinned"),
    "blank lines": lambda text: text.replace("dependencies:", "\n\ndependencies:") + "\n\n",
    "the name": lambda text: text.replace("name: basin-rivers", "name: other"),
    "the prefix": lambda text: text.replace("/home/somebody", "/home/else"),
    "the order of dependencies": lambda text: text.replace("  - python=3.10\n", "").replace(
        "  - gdal=3.8.3\n", "  - gdal=3.8.3\n  - python=3.10\n"
    ),
    "the order of variables": lambda text: text.replace("  LIMIT: 010\n", "").replace(
        "variables:\n", "variables:\n  LIMIT: 010\n"
    ),
    "quotes": lambda text: text.replace("- gdal=3.8.3", '- "gdal=3.8.3"'),
    "blanks inside a spec": lambda text: text.replace("rasterio 1.3.* py310*", "rasterio   1.3.*  py310*"),
    "an unknown section": lambda text: text + "\nauthors: [somebody]",
    "the final newline": lambda text: text + "\n",
}
OTHER = {
    "a version": lambda text: text.replace("gdal=3.8.3", "gdal=3.8.4"),
    "a build string": lambda text: text.replace("py310*", "py311*"),
    "one dependency less": lambda text: text.replace("  - pyproj # Always include to avoid PROJ conflicts\n", ""),
    "the order of channels": lambda text: text.replace(
        "  - conda-forge\n  - defaults\n", "  - defaults\n  - conda-forge\n"
    ),
    "a pip line": lambda text: text.replace("v1.1.5rc0", "v1.1.6"),
    "the order of pip lines": lambda text: text.replace("      - -e .\n", "").replace(
        "      # the tag", "      - -e .\n      # the tag"
    ),
    "a variable's value": lambda text: text.replace("LIMIT: 010", "LIMIT: 10"),
    "a variable's name": lambda text: text.replace("LIMIT", "LIMITS"),
    "a dependency that becomes a pip line": lambda text: text.replace("  - gdal=3.8.3\n", "").replace(
        "      - -e .", "      - gdal=3.8.3\n      - -e ."
    ),
}


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_change_the_fingerprint(change: str) -> None:
    """What decides nothing about an environment's content never costs a rebuild."""
    changed = SAME[change](RIVERS)
    assert changed != RIVERS
    assert parse_conda(changed).fingerprint() == parse_conda(RIVERS).fingerprint()


@pytest.mark.parametrize("change", OTHER)
def test_what_changes_the_fingerprint(change: str) -> None:
    """What decides about an environment's content always gives another fingerprint."""
    changed = OTHER[change](RIVERS)
    assert changed != RIVERS
    assert parse_conda(changed).fingerprint() != parse_conda(RIVERS).fingerprint()


def test_a_fingerprint_is_sixteen_hex_digits_and_counts_kind_and_extra() -> None:
    """The same lines as another kind, or with a site's own requirements before them, are another environment."""
    file = parse_requirements("numpy")
    assert len(file.fingerprint()) == 16
    assert int(file.fingerprint(), 16) >= 0
    found = {
        file.fingerprint(),
        file.fingerprint(["gdal==3.8.3"]),
        file.fingerprint(["gdal==3.8.3", "numpy"]),
        parse_requirements("numpy").fingerprint(["numpy", "gdal==3.8.3"]),
        parse_conda("dependencies: [{pip: [numpy]}]").fingerprint(),
    }
    assert len(found) == 5
    assert parse_requirements("numpy # again").fingerprint() == file.fingerprint()


PROJECT = "[project]\nname = 'pkg'\nversion = '1'\n"
REFERENCES: dict[str, tuple[str, dict[str, str], str, bool]] = {
    # what it is: (pip line, files, the file that changes, whether that counts)
    "-r": ("-r more.txt", {"more.txt": "numpy"}, "more.txt", True),
    "-c": ("-c pins.txt", {"pins.txt": "numpy<2"}, "pins.txt", True),
    "-r of -r": ("-r a.txt", {"a.txt": "-r b.txt", "b.txt": "numpy"}, "b.txt", True),
    "-c of -r, relative to it": (
        "-r envs/a.txt",
        {"envs/a.txt": "-c pins.txt", "envs/pins.txt": "numpy<2"},
        "envs/pins.txt",
        True,
    ),
    "-e . by its pyproject.toml": ("-e .", {"pyproject.toml": PROJECT}, "pyproject.toml", True),
    "-e . by its setup.py": ("-e .", {"setup.py": "pass", "setup.cfg": ""}, "setup.cfg", True),
    "-e . by requirement files it may read": (
        "-e .",
        {"pyproject.toml": PROJECT, "requirements-dev.txt": "numpy"},
        "requirements-dev.txt",
        True,
    ),
    "-e . not by its code, which is read live": (
        "-e .",
        {"pyproject.toml": PROJECT, "pkg/code.py": "a = 1"},
        "pkg/code.py",
        False,
    ),
    "-e with an extra": ("-e ./lib[all]", {"lib/pyproject.toml": PROJECT}, "lib/pyproject.toml", True),
    "./pkg by its code": (
        "./pkg",
        {"pkg/pyproject.toml": PROJECT, "pkg/src/code.py": "a = 1"},
        "pkg/src/code.py",
        True,
    ),
    "file: by its code": ("file:./pkg", {"pkg/setup.py": "pass", "pkg/data.json": "{}"}, "pkg/data.json", True),
    "./pkg not by compiled files": (
        "./pkg",
        {"pkg/setup.py": "pass", "pkg/__pycache__/code.pyc": "x"},
        "pkg/__pycache__/code.pyc",
        False,
    ),
    "a wheel": (
        "./wheels/a-1-py3-none-any.whl",
        {"wheels/a-1-py3-none-any.whl": "x"},
        "wheels/a-1-py3-none-any.whl",
        True,
    ),
    "a wheel where -f looks": (
        "-f ./wheels",
        {"wheels/a-1-py3-none-any.whl": "x"},
        "wheels/a-1-py3-none-any.whl",
        True,
    ),
    "a page of links that -f reads": ("-f ./links.html", {"links.html": "<a href=x>"}, "links.html", True),
    "what is no package where -f looks": (
        "-f ./wheels",
        {"wheels/a-1-py3-none-any.whl": "x", "wheels/README.md": "x"},
        "wheels/README.md",
        False,
    ),
    "./pkg in -r, relative to where the installer runs": (
        "-r envs/a.txt",
        {"envs/a.txt": "./pkg", "pkg/setup.py": "pass"},
        "pkg/setup.py",
        True,
    ),
    "a file that nothing refers to": ("numpy", {"more.txt": "numpy"}, "more.txt", False),
}


@pytest.mark.parametrize("kind", ["conda", "requirements"])
@pytest.mark.parametrize("case", REFERENCES)
def test_the_content_of_local_files_counts(case: str, kind: str, tmp_path: Path) -> None:
    """A local file counts in the fingerprint exactly when it decides what is installed."""
    line, files, changes, counts = REFERENCES[case]
    name, text = (CONDA_FILE, conda("python", pip=(line,))) if kind == "conda" else (REQUIREMENTS_FILE, line)
    before = read(write(tmp_path, {**files, name: text})).fingerprint()
    after = read(write(tmp_path, {changes: files[changes] + "\n# changed"})).fingerprint()
    assert (before != after) is counts


def test_a_new_file_in_a_copied_package_counts(tmp_path: Path) -> None:
    """`./pkg` is copied into the environment, so a file that comes, goes or moves is another environment."""
    checkout = write(tmp_path, {CONDA_FILE: conda("python", pip=("./pkg",)), "pkg/setup.py": "pass", "pkg/a.py": ""})
    found = [read(checkout).fingerprint()]
    write(checkout, {"pkg/b.py": ""})
    found.append(read(checkout).fingerprint())
    (checkout / "pkg/a.py").rename(checkout / "pkg/c.py")
    found.append(read(checkout).fingerprint())
    assert len(set(found)) == 3


def test_remote_references_are_not_files(tmp_path: Path) -> None:
    """A URL after `-r` and a repository after `-e` name nothing in the checkout."""
    lines = ("-r https://host/requirements.txt", "-e git+https://host/a.git#egg=a")
    assert read(write(tmp_path, {CONDA_FILE: conda("python", pip=lines)})).files == ()


# -------------------------------------------------------------------------------------------------------- errors


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_TEXTS: dict[str, tuple[str, str, str]] = {
    # what it is: (text, place, words)
    "empty": ("", "line 1", "empty"),
    "comments only": ("# nothing\n\n# here\n", "line 1", "empty"),
    "a list": ("- python\n- numpy\n", "line 1", "dependencies"),
    "a scalar": ("python", "line 1", "dependencies"),
    "a requirements file under the wrong name": ("numpy==1.0\npandas\n", "line 1", "dependencies"),
    "billion laughs": (LAUGHS, "line 1", "aliases"),
    "an alias of itself": ("dependencies: &a\n  - python\n  - *a\n", "line 1", "aliases"),
    "a mapping of itself": ("dependencies:\n  - python\nvariables: &a\n  A: *a\n", "line 1", "aliases"),
    "an alias of 100,000 characters": (f"dependencies:\n  - *{'x' * 100_000}\n", "line 2", "undefined alias"),
    "an unknown alias": ("dependencies:\n  - *nothing\n", "line 2", "undefined alias"),
    "a tab": ("dependencies:\n\t- python\n", "line 2", "tab"),
    "a bracket that is never closed": ("dependencies:\n  - python\n  - [numpy\n", "line 4", "not YAML"),
    "two documents": ("dependencies: [python]\n---\ndependencies: [numpy]\n", "line 2", "not YAML"),
    "duplicate pip": ("dependencies:\n  - pip:\n    - a\n  - pip:\n    - b\n", "line 4", "twice"),
    "duplicate section": ("dependencies:\n  - a\nchannels: [b]\ndependencies:\n  - c\n", "line 4", "twice"),
    "no dependencies": ("name: x\nchannels: [conda-forge]\n", "line 1", "no `dependencies:`"),
    "dependencies with a typo": ("name: x\ndependancies:\n  - python\n", "line 1", "did you mean `dependencies`"),
    "dependencies without content": ("name: x\ndependencies:\n", "line 2", "empty"),
    "dependencies is an empty list": ("name: x\ndependencies: []\n", "line 2", "empty"),
    "dependencies with an empty pip": ("dependencies:\n  - pip: []\n", "line 2", "empty"),
    "dependencies is a text": ("dependencies: python numpy\n", "line 1", "list"),
    "dependencies is a mapping": ("dependencies:\n  python: 3.10\n", "line 2", "list"),
    "a spec that is a list": ("dependencies:\n  - python\n  - [numpy]\n", "line 3", "list"),
    "a spec that is empty": ("dependencies:\n  - python\n  -\n", "line 3", "empty"),
    "a spec that is an option": ("dependencies:\n  - python\n  - --override-channels\n", "line 3", "match spec"),
    "a spec that is a short option": ("dependencies:\n  - python\n  - -c evil\n", "line 3", "match spec"),
    "a spec of 100,000 characters": (f"dependencies:\n  - -{'x' * 100_000}\n", "line 2", "-xxx"),
    "a spec with an escape sequence": ('dependencies:\n  - "python\\e[31m"\n', "line 2", "can't be shown"),
    "a spec with a newline": ("dependencies:\n  - |\n    python\n    numpy\n", "line 2", "can't be shown"),
    "another mapping than pip": ("dependencies:\n  - python\n  - npm:\n    - x\n", "line 3", "`npm:`"),
    "pip is a mapping": ("dependencies:\n  - python\n  - pip: {}\n", "line 3", "list"),
    "pip is a text": ("dependencies:\n  - python\n  - pip: numpy\n", "line 3", "list"),
    "pip with a mapping in it": ("dependencies:\n  - pip:\n    - numpy: 1\n", "line 3", "mapping"),
    "channels is a text": ("channels: conda-forge\ndependencies:\n  - python\n", "line 1", "list"),
    "channels with a list in it": ("channels:\n  - [a]\ndependencies:\n  - python\n", "line 2", "list"),
    "name is a list": ("name: [a]\ndependencies:\n  - python\n", "line 1", "list"),
    "a section's name is a list": ("? [a]\n: b\ndependencies:\n  - python\n", "line 1", "list"),
    "variables is a list": ("dependencies:\n  - python\nvariables:\n  - A=b\n", "line 4", "NAME: value"),
    "a variable with a dash": ("dependencies: [python]\nvariables:\n  A-B: c\n", "line 3", "'A-B'"),
    "a variable with an equals sign": ("dependencies: [python]\nvariables:\n  A=B: c\n", "line 3", "'A=B'"),
    "a variable that begins with a digit": ("dependencies: [python]\nvariables:\n  1A: c\n", "line 3", "'1A'"),
    "a variable with a list": ("dependencies: [python]\nvariables:\n  A: [c]\n", "line 3", "text"),
    "a variable with a NUL": ('dependencies: [python]\nvariables:\n  A: "\\0"\n', "line 3", "text"),
    "a variable with half a character": ('dependencies: [python]\nvariables:\n  A: "\\ud800"\n', "line 3", "text"),
    "a character that is none": ('dependencies:\n  - "\\UFFFFFFFF"\n', "", "not YAML"),
    "a character beyond the last": ('dependencies:\n  - "\\U00110000"\n', "", "not YAML"),
    "a version of 5,000 digits": ("%YAML 1." + "1" * 5_000 + "\n---\ndependencies: [a]\n", "", "not YAML"),
    "a control character": ("dependencies:\n  - a\x00b\n", "line 2", "not YAML"),
    "lists nested 2,000 deep": ("dependencies: " + "[" * 2_000 + "]" * 2_000, "", "nested"),
    "blocks nested 2,000 deep": ("dependencies:\n  " + "- " * 2_000 + "a", "", "nested"),
    "21,000 dependencies": ("dependencies:\n" + "- a\n" * 21_000, "line 1", "large"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_bad_file_is_an_error_that_names_file_line_and_fault(case: str) -> None:
    """Each fault is an EnvironmentFileError whose message names the file, the line and what is wrong there."""
    text, place, words = BAD_TEXTS[case]
    with pytest.raises(EnvironmentFileError) as raised:
        parse_conda(text, "sepal_environment.yml")
    message = raised.value.message
    assert raised.value.code == "environment-file"
    assert message.startswith(f"sepal_environment.yml: {place}")
    assert words in message
    assert len(message) < 2_000
    message.encode()


def test_an_unknown_section_is_a_warning_with_the_likely_name() -> None:
    """A section that conda doesn't know changes nothing, and the warning says which one was meant."""
    file = parse_conda("dependencies: [python]\nchanels: [conda-forge]\nauthors: [me]\n")
    assert file.channels == ()
    assert [warning.place for warning in file.warnings] == ["line 2", "line 3"]
    assert "`chanels`" in file.warnings[0].message
    assert "did you mean `channels`?" in file.warnings[0].message
    assert "did you mean" not in file.warnings[1].message


def outside_link(checkout: Path, name: str) -> None:
    """Put a link to a file outside the checkout into it."""
    write(checkout.parent, {"outside.txt": "secret"})
    (checkout / name).symlink_to("../outside.txt")


def bad_checkout(folder: Path, pip: str, prepare: Callable[[Path], object] = lambda checkout: None) -> str:
    """What is said of a checkout whose environment file has this pip line."""
    checkout = write(folder / "checkout", {CONDA_FILE: conda("python", pip=(pip,))})
    prepare(checkout)
    with pytest.raises(EnvironmentFileError) as raised:
        read(checkout)
    return raised.value.message


BAD_REFERENCES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a missing -r file": ("-r missing.txt", lambda checkout: None, "there is no missing.txt"),
    "a missing -c file": ("-c missing.txt", lambda checkout: None, "there is no missing.txt"),
    "an -r file outside": (
        "-r ../outside.txt",
        lambda c: write(c.parent, {"outside.txt": "x"}),
        "out of the repository",
    ),
    "an absolute -r file": ("-r /etc/passwd", lambda checkout: None, "out of the repository"),
    "a project outside": ("-e ..", lambda checkout: None, "out of the repository"),
    "an -r file that is a link out": ("-r link.txt", lambda c: outside_link(c, "link.txt"), "out of the repository"),
    "a wheel of -f that is a link out": (
        "-f .",
        lambda c: (c / "a-1-py3-none-any.whl").symlink_to("/etc/passwd"),
        "out of the repository",
    ),
    "a project that is a link out": ("./link", lambda c: (c / "link").symlink_to(c.parent), "out of the repository"),
    "an -r file that links to itself": ("-r link.txt", lambda c: (c / "link.txt").symlink_to("link.txt"), "link.txt"),
    "a name that is too long": (f"-r {'x' * 100_000}.txt", lambda checkout: None, "File name too long"),
    "a long way out": (f"-r {'../' * 30_000}etc/passwd", lambda checkout: None, "out of the repository"),
    "a NUL": ("-r a\0b", lambda checkout: None, "can't be shown"),
    "-e . without a project": ("-e .", lambda checkout: None, "pyproject.toml"),
    "./pkg without a project": ("./pkg", lambda c: write(c, {"pkg/code.py": ""}), "pyproject.toml"),
    "./pkg that isn't there": ("./pkg", lambda checkout: None, "there is no pkg"),
    "an -r folder": (
        "-r pkg",
        lambda c: write(c, {"pkg/code.py": ""}),
        "pkg: it can't be read: it is not a regular file",
    ),
    "an -r file that is no text": (
        "-r a.bin",
        lambda c: write(c, {"a.bin": b"\xff\xfe\x00"}),
        "a.bin: it is not UTF-8",
    ),
    "an -r file of 1 MB": ("-r a.txt", lambda c: write(c, {"a.txt": "#" * 1_000_000}), "a.txt: it is larger than"),
    "a nested file that is missing": (
        "-r a.txt",
        lambda c: write(c, {"a.txt": "\n# more\n-r b.txt\n"}),
        "a.txt: line 3: -r b.txt: there is no b.txt",
    ),
    "a package of too many files": (
        "./pkg",
        lambda c: write(c, {"pkg/setup.py": "", **{f"pkg/{n}": "" for n in range(REFERENCE_LIMIT)}}),
        str(REFERENCE_LIMIT),
    ),
    "too many files that include each other": (
        "-r 0.txt",
        lambda c: write(c, {f"{n}.txt": f"-r {n + 1}.txt" for n in range(INCLUDE_LIMIT + 5)}),
        str(INCLUDE_LIMIT),
    ),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_a_bad_reference_is_an_error_that_says_which(case: str, tmp_path: Path) -> None:
    """A local file that is missing, unreadable or outside the repository is named, and nothing outside is read."""
    line, prepare, words = BAD_REFERENCES[case]
    message = bad_checkout(tmp_path, line, prepare)
    assert words in message
    assert "secret" not in message
    assert len(message) < 2_000


def test_a_fifo_is_never_waited_for(tmp_path: Path) -> None:
    """A FIFO, from which a read would never return, is no environment file and no requirements file."""
    os.mkfifo(tmp_path / CONDA_FILE)
    assert find_environment_file(tmp_path) is None
    with pytest.raises(EnvironmentFileError, match="not a regular file"):
        read_environment_file(tmp_path, CONDA_FILE)
    assert "not a regular file" in bad_checkout(tmp_path, "-r pipe", lambda checkout: os.mkfifo(checkout / "pipe"))


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    """A loop of requirement files ends, and each of them counts once."""
    files = {REQUIREMENTS_FILE: "-r a.txt", "a.txt": "-r b.txt\nnumpy", "b.txt": "-r a.txt\n-r requirements.txt"}
    assert [path for path, _ in read(write(tmp_path, files)).files] == ["a.txt", "b.txt", REQUIREMENTS_FILE]


@pytest.mark.timeout(30)
def test_files_that_include_each_other_many_times_are_read_once(tmp_path: Path) -> None:
    """Twenty files that each include the next one 200 times unfold into twenty files, not into 200^20."""
    files = {f"{n}.txt": f"-r {n + 1}.txt\n" * 200 for n in range(20)}
    found = read(write(tmp_path, {**files, "20.txt": "numpy", REQUIREMENTS_FILE: "-r 0.txt"}))
    assert len(found.files) == 21


@pytest.mark.parametrize(
    ("target", "words"),
    [("../outside.yml", "out of the repository"), ("/etc/passwd", "out of the repository"), (CONDA_FILE, CONDA_FILE)],
)
def test_an_environment_file_that_is_a_link_out_or_to_itself_is_refused(
    target: str, words: str, tmp_path: Path
) -> None:
    """An environment file never reads anything outside its repository, nor follows a link round and round."""
    checkout = write(tmp_path / "checkout", {"a.txt": ""})
    write(tmp_path, {"outside.yml": "dependencies: [python]"})
    (checkout / CONDA_FILE).symlink_to(target)
    assert find_environment_file(checkout) == CONDA_FILE
    with pytest.raises(EnvironmentFileError, match=words):
        read(checkout)


def test_a_link_inside_the_repository_is_followed(tmp_path: Path) -> None:
    """A repository may keep its file elsewhere and link to it."""
    checkout = write(tmp_path, {"envs/main.yml": "dependencies: [python]"})
    (checkout / CONDA_FILE).symlink_to("envs/main.yml")
    assert read(checkout).dependencies == ("python",)


def test_a_file_that_is_no_utf8_or_too_large_is_refused(tmp_path: Path) -> None:
    """A file in another encoding, or of 1 MB, is an error that names the file and why."""
    with pytest.raises(EnvironmentFileError, match=r"sepal_environment\.yml: it is not UTF-8 \(byte 20\)"):
        read(write(tmp_path, {CONDA_FILE: b"dependencies: [gdal]\xff"}))
    assert FILE_LIMIT < 1_000_000
    with pytest.raises(EnvironmentFileError, match=r"sepal_environment\.yml: it is larger than"):
        read(write(tmp_path, {CONDA_FILE: "dependencies: [python]\n" + "#" * 1_000_000}))


def test_a_file_that_vanished_is_an_environment_file_error(tmp_path: Path) -> None:
    """A file that is gone between two looks is an error of the same class."""
    with pytest.raises(EnvironmentFileError, match="can't be read"):
        read_environment_file(tmp_path, CONDA_FILE)


def test_which_file_is_preferred(tmp_path: Path) -> None:
    """The conda file wins over requirements.txt, folders don't count, and without either there is none."""
    (tmp_path / CONDA_FILE).mkdir()
    assert find_environment_file(tmp_path) is None
    write(tmp_path, {REQUIREMENTS_FILE: ""})
    assert find_environment_file(tmp_path) == REQUIREMENTS_FILE
    (tmp_path / CONDA_FILE).rmdir()
    write(tmp_path, {CONDA_FILE: ""})
    assert find_environment_file(tmp_path) == CONDA_FILE


# ---------------------------------------------------------------------------------------------------- hypothesis


PIECES = ["dependencies:", "channels:", "variables:", "- ", "  ", "\n", "pip:", "&a", "*a", "[", "]", "{", "}", ": "]
PIECES += ['"', "'", "\\", "U", "x", "|", ">", "#", "!", "!!int ", "%YAML 1.1", "---", "\t", "python", "?", "<<", "~"]
yaml_like = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=25).map("".join)


@given(st.one_of(st.text(), yaml_like))
def test_any_text_is_an_environment_file_or_an_environment_file_error(text: str) -> None:
    """Whatever a file holds, parsing ends in a value that has a fingerprint, or in an EnvironmentFileError."""
    try:
        file = parse_conda(text)
    except EnvironmentFileError as error:
        assert error.message.startswith(CONDA_FILE)
        return
    assert len(file.fingerprint()) == 16
    json.dumps(file.to_json(), ensure_ascii=False).encode()


@given(st.text())
def test_any_text_is_a_requirements_file(text: str) -> None:
    """Parsing requirements never fails, and no line is empty or longer than the file."""
    file = parse_requirements(text)
    assert all(line.strip() == line and line for line in file.pip)
    assert sum(len(line) for line in file.pip) <= len(text) + text.count("\\")
    assert len(file.fingerprint()) == 16


@given(st.text())
def test_any_line_has_a_target_or_none(line: str) -> None:
    """Looking for a local reference in a line never fails."""
    option, target = pip_target(line)
    assert (option == "") == (target == "")
