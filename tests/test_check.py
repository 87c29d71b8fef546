"""`jupyter sepal check`: every trap is told once, in its place; sound repositories are told nothing."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SHARED, Site, commit, git

from sepal_provisioner import checks
from sepal_provisioner.checks import RULES, Finding, Level, run_checks
from sepal_provisioner.checks.finding import finding
from sepal_provisioner.checks.repository import tree
from sepal_provisioner.commands import findings as shown
from sepal_provisioner.lockfile import conda_platform
from sepal_provisioner.settings import Sepal

ROOT = Path(checks.__file__).parents[2]
SOUND = "channels: [conda-forge]\ndependencies: [python=3.12, numpy]\n"
URL = "https://conda.anaconda.org/conda-forge"
LOCK = f"""\
# platform: {conda_platform()}
@EXPLICIT
{URL}/noarch/ipykernel-6.29.0-py_0.conda#{"0" * 32}
{URL}/noarch/python-3.12.0-0.conda#{"1" * 32}
"""


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG image of a size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def notebook(name: str, language: str = "python") -> str:
    """A notebook that names a kernel, as Jupyter writes it."""
    spec = {"display_name": name, "language": language, "name": name}
    return json.dumps({"cells": [], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def look(folder: Path, files: Mapping[str, str | bytes], **settings: Any) -> list[Finding]:
    """The findings in a repository of these files, without solving."""
    commit(folder, files)
    return list(run_checks(tree(folder, Sepal(**settings)), solve=False))


def sepal(*arguments: str, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `jupyter sepal check`; it must end with `code`."""
    command = [sys.executable, "-m", "jupyter", "sepal", "check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd or "/")
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_sound_repository_is_told_nothing(tmp_path: Path) -> None:
    """A repository as the README describes it has no finding at all."""
    files = {
        "sepal_environment.yml": "name: forest\n" + SOUND,
        "ui.ipynb": notebook("venv-forest"),
        "R.ipynb": notebook("ir", "R"),
        "logo.png": png(64, 64),
        "Ünï code.py": "",
    }
    assert look(tmp_path / "Forest", files) == []


CONDA = "channels: [conda-forge]\ndependencies:\n- python=3.12\n"
TRAPS: list[tuple[str, dict[str, str | bytes], tuple[str, int]]] = [
    ("no-environment-file", {"README.md": ""}, ("", 0)),
    ("environment-file", {"sepal_environment.yml": "dependencies:\n- a\n\t- x\n"}, ("sepal_environment.yml", 3)),
    ("environment-file", {"sepal_environment.yml": CONDA + "- pip: [-r none.txt]\n"}, ("sepal_environment.yml", 4)),
    ("environment-file-ignored", {"sepal_environment.yml": SOUND + "chanels: [x]\n"}, ("sepal_environment.yml", 3)),
    ("no-python-project", {"sepal_environment.yml": CONDA + "- pip:\n  - -e .\n"}, ("sepal_environment.yml", 5)),
    ("prefix-present", {"sepal_environment.yml": SOUND + "prefix: /home/me\n"}, ("sepal_environment.yml", 3)),
    ("environment-name", {"sepal_environment.yml": "name: other\n" + SOUND}, ("sepal_environment.yml", 1)),
    ("python-unpinned", {"sepal_environment.yml": "dependencies:\n- numpy\n- python\n"}, ("sepal_environment.yml", 3)),
    ("python-unpinned", {"sepal_environment.yml": "dependencies:\n- numpy\n"}, ("sepal_environment.yml", 2)),
    (
        "defaults-channel",
        {"sepal_environment.yml": "channels:\n- conda-forge\n- defaults\ndependencies: [python=3.12]\n"},
        ("sepal_environment.yml", 3),
    ),
    ("ipykernel-old", {"sepal_environment.yml": CONDA + "- ipykernel=5.*\n"}, ("sepal_environment.yml", 4)),
    ("ipykernel-old", {"requirements.txt": "numpy\nipykernel<6\n"}, ("requirements.txt", 2)),
    (
        "pip-wheel-over-conda",
        {"sepal_environment.yml": CONDA + "- gdal\n- pip:\n  - six\n  - rasterio<1.4\n"},
        ("sepal_environment.yml", 7),
    ),
    (
        "pip-wheel-over-conda",
        {"sepal_environment.yml": CONDA + "- proj\n- pip: [-r more.txt]\n", "more.txt": "six\n\nPyProj\n"},
        ("more.txt", 3),
    ),
    ("pip-gdal-source", {"requirements.txt": "numpy\nGDAL==3.8\n"}, ("requirements.txt", 2)),
    (
        "lock-incomplete",
        {"sepal_environment.yml": SOUND, "sepal_environment.lock": LOCK},
        ("sepal_environment.lock", 0),
    ),
    (
        "lock-platform",
        {"sepal_environment.yml": SOUND, "sepal_environment.lock": LOCK.replace(conda_platform(), "win-64")},
        ("sepal_environment.lock", 1),
    ),
    (
        "lock-unreadable",
        {"sepal_environment.yml": SOUND, "sepal_environment.lock": LOCK + "x\n"},
        ("sepal_environment.lock", 5),
    ),
    ("lock-unused", {"requirements.txt": "six\n", "sepal_environment.lock": LOCK}, ("sepal_environment.lock", 0)),
    ("notebook-kernel", {"sepal_environment.yml": SOUND, "a/b.ipynb": notebook("python3")}, ("a/b.ipynb", 7)),
    ("notebook-unreadable", {"sepal_environment.yml": SOUND, "b.ipynb": "{"}, ("b.ipynb", 0)),
    ("notebook-not-read", {"sepal_environment.yml": SOUND, "b.ipynb": b" " * 20_000_001}, ("b.ipynb", 0)),
    ("logo-size", {"sepal_environment.yml": SOUND, "logo.png": png(65, 64)}, ("logo.png", 0)),
    ("logo-unusable", {"sepal_environment.yml": SOUND, "logo.svg": "<svg onload='x'/>"}, ("logo.svg", 0)),
    ("file-name", {"sepal_environment.yml": SOUND, "a:b.txt": ""}, ("a:b.txt", 0)),
    ("file-name", {"sepal_environment.yml": SOUND, "Data.csv": "", "data.csv": ""}, ("data.csv", 0)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "files", "place"), TRAPS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_trap_is_told_once_and_in_its_place(
    code: str, files: dict[str, str | bytes], place: tuple[str, int], tmp_path: Path
) -> None:
    """A repository with one fault has one finding: its code, its file, its line, and what helps."""
    (found,) = look(tmp_path / "forest", files)
    assert (found.code, (found.file, found.line)) == (code, place), found
    assert found.message and found.remedy


@pytest.mark.parametrize(
    "text",
    [
        CONDA + "- gdal\n- rasterio\n- pip: [numpy, rioxarray-nothing]\n",
        CONDA + "- pip: [rasterio, geopandas]\n",
        CONDA + "- gdal\n- pyproj\n- pyogrio\n- pip: [geopandas]\n",
        CONDA + "- gdal\n- pip: ['git+https://github.com/rasterio/rasterio@main#egg=rasterio']\n",
        CONDA + "- ipykernel>=6\n",
        CONDA + "- ipykernel=6.29.5\n",
        CONDA + "- ipykernel<7\n",
        "channels: [conda-forge]\ndependencies: ['python 3.12.*']\n",
        "channels: [conda-forge]\ndependencies: ['conda-forge::python>=3.10,<3.13']\n",
        "channels: [defaults]\ndependencies: [python=3.12]\n",
        "name: FOR-EST\n" + SOUND,
    ],
)
def test_what_is_no_trap_is_not_told(text: str, tmp_path: Path) -> None:
    """Sound ways to write what looks like a trap raise no alarm."""
    assert look(tmp_path / "forest", {"sepal_environment.yml": text}) == []


def test_the_sites_policy_is_checked(tmp_path: Path) -> None:
    """A channel or host that the site refuses is an error, with its line."""
    text = "channels:\n- conda-forge\n- bioconda\ndependencies: [python=3.12]\n"
    (found,) = look(tmp_path / "a", {"sepal_environment.yml": text}, allowed_channels=["conda-forge"])
    assert (found.code, found.line, found.level) == ("not-allowed", 3, Level.ERROR)
    text = CONDA + "- pip:\n  - six\n  - git+https://example.org/x/y\n"
    (found,) = look(tmp_path / "b", {"sepal_environment.yml": text}, allowed_hosts=["github.com"])
    assert (found.code, found.line) == ("not-allowed", 6) and "example.org" in found.message


def test_the_catalogs_entry_is_checked(site: Site) -> None:
    """An entry that names the repository, however it writes the URL, is held to the schema; its state is told."""
    folder = site.repository("forest")
    commit(folder, {"sepal_environment.yml": SOUND})
    git(folder, "remote", "add", "origin", "git@example.org:owner/forest.git")

    def told(**entry: Any) -> list[tuple[str, str]]:
        url = "https://example.org/owner/Forest"
        site.apps = [{"id": "x"}, {"id": "f", "label": "F", "endpoint": "jupyter", "repository": url, **entry}]
        site.write()
        found = run_checks(tree(folder, site.settings()), solve=False)
        return [(one.code, one.message) for one in found]

    assert told() == []
    ((code, message),) = told(branch="a b")
    assert code == "catalog-entry" and "apps[1].branch" in message
    assert [code for code, _ in told(skip=True)] == ["catalog-skipped"]
    assert [code for code, _ in told(endpoint="docker")] == ["catalog-not-a-kernel"]
    git(folder, "remote", "set-url", "origin", "https://token@example.org/owner/other")
    (found,) = run_checks(tree(folder, site.settings()), solve=False)
    assert found.code == "not-in-catalog"
    entry = json.loads(found.detail)
    assert entry["repository"] == "https://example.org/owner/other" and entry["endpoint"] == "jupyter"


def test_a_check_that_crashes_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One check's crash hides nothing that the others find, and is no stack trace."""

    def crash(subject: object) -> list[Finding]:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(checks, "CHECKS", {"any": crash, **checks.CHECKS})
    found = look(tmp_path / "forest", {"sepal_environment.yml": SOUND + "prefix: /x\n"})
    assert [one.code for one in found] == ["check-failed", "prefix-present"]
    assert "ZeroDivisionError: by nothing" in found[0].message


def test_a_parser_that_crashes_is_a_finding_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the environment file is what crashes a check, the document is whole."""
    from sepal_provisioner.checks import subject

    def crash(text: str, path: str) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(subject, "parse_conda", crash)
    found = look(tmp_path / "forest", {"sepal_environment.yml": SOUND, "logo.png": "x"})
    assert {one.code for one in found} == {"check-failed", "logo-unusable"}


@pytest.mark.parametrize("seed", range(3))
def test_no_damaged_file_crashes_a_check(seed: int, tmp_path: Path) -> None:
    """Environment files, notebooks and logos with random damage are told in words that can be shown."""
    import random

    chance = random.Random(seed)
    pieces = [
        "- pip:\n",
        "  - -e .\n",
        "&a ",
        "*a",
        "\t",
        "{",
        "]",
        '"',
        "\x00",
        "\u2028",
        "<<: *a\n",
        "prefix: [x]\n",
        "- -r ../x\n",
    ]
    pieces += [
        "- python 3\n",
        "- ipykernel=\n",
        "~",
        "!!binary ",
        "- pip: {}\n",
        "name: {a: b}\n",
        "- rasterio @ file:///x\n",
    ]
    text = "name: forest\n" + CONDA + "- gdal\n- pip:\n  - six\n  - -r more.txt\nvariables:\n  A: b\n"

    def damaged(whole: str) -> str:
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(len(whole) + 1)
            whole = whole[:at] + chance.choice(pieces) + whole[at + chance.randint(0, 9) :]
        return whole

    for number in range(60):
        (tmp_path / chance.choice(["sepal_environment.yml", "requirements.txt"])).write_text(damaged(text))
        (tmp_path / "more.txt").write_text(damaged("six\nrasterio\n"))
        (tmp_path / "ui.ipynb").write_text(damaged(notebook("x")))
        (tmp_path / "logo.png").write_bytes(png(1, 1)[: chance.randint(0, 33)])
        found = list(run_checks(tree(tmp_path, Sepal(allowed_hosts=["github.com"])), solve=False))
        assert "check-failed" not in {one.code for one in found}, (number, found)
        assert "\x00" not in shown.text(found) and shown.github(found).count("\n") == max(len(found) - 1, 0)


def test_a_folder_without_git_is_checked(tmp_path: Path) -> None:
    """Where git knows nothing, the files of the folder are looked at; environments and hidden caches are left out."""
    folder = tmp_path / "forest"
    for path in ("sub/a.ipynb", "venv/lib/b.ipynb", ".ipynb_checkpoints/c.ipynb"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(notebook("python3"))
    (folder / "sepal_environment.yml").write_text(SOUND)
    found = list(run_checks(tree(folder, Sepal()), solve=False))
    assert [(one.code, one.file) for one in found] == [("notebook-kernel", "sub/a.ipynb")]


def test_a_file_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """A name in another encoding arrives as a finding that can be printed."""
    import os

    folder = tmp_path / "forest"
    commit(folder, {"sepal_environment.yml": SOUND})
    with open(os.fsencode(folder) + b"/caf\xe9.csv", "w"):
        pass
    (found,) = look(folder, {})
    assert found.code == "file-name" and found.file.encode() and "UTF-8" in found.message


def test_exit_codes_for_ci(tmp_path: Path) -> None:
    """0 for nothing worse than a warning, 1 for an error, and with --strict for a warning too; 2 for a mistake."""
    folder = tmp_path / "forest"
    commit(folder, {"sepal_environment.yml": SOUND, "b.ipynb": notebook("python3")})
    document = json.loads(sepal(str(folder), "--no-solve", "--json").stdout)
    assert (document["errors"], document["warnings"], document["kernel"]) == (0, 1, "venv-forest")
    (told,) = document["findings"]
    assert list(told) == ["level", "code", "message", "file", "line", "remedy", "detail"]
    text = sepal(".", "--no-solve", "--strict", code=1, cwd=folder).stdout
    assert "b.ipynb\n  line 6: warning: " in text or "b.ipynb\n  line 7: warning: " in text
    assert "0 errors, 1 warning, 0 notices" in text and "\x1b" not in text
    (folder / "sepal_environment.yml").write_text("dependencies: {}\n")
    assert "[environment-file]" in sepal(str(folder), "--no-solve", code=1).stdout, "what isn't committed counts"
    assert "There is no folder" in sepal(str(tmp_path / "none"), code=2).stderr
    assert "Name one folder" in sepal(code=2).stderr


def test_a_repository_is_cloned_by_its_url(site: Site) -> None:
    """A URL is cloned for the check only, at the branch that is named, and only by the schemes that are allowed."""
    folder = site.repository("forest")
    commit(folder, {"sepal_environment.yml": SOUND})
    git(folder, "checkout", "--quiet", "-b", "next")
    commit(folder, {"sepal_environment.yml": SOUND + "prefix: /x\n"})
    git(folder, "checkout", "--quiet", "main")
    site.apps = [{"id": "f", "label": "F", "endpoint": "jupyter", "repository": f"file://{folder}"}]
    site.write()
    config = f"--config={site.config()}"
    assert json.loads(sepal(f"file://{folder}", "--no-solve", "--json", config).stdout)["findings"] == []
    document = json.loads(sepal(f"file://{folder}", "--branch=next", "--no-solve", "--json", config).stdout)
    assert [one["code"] for one in document["findings"]] == ["prefix-present"]
    assert "no branch" in sepal(f"file://{folder}", "--branch=none", config, code=4).stderr
    assert "repository_schemes" in sepal(f"file://{folder}", code=4).stderr


def test_annotations_are_escaped_as_github_reads_them() -> None:
    """A file name or message with `%`, `:`, `,` or a line break can't end its annotation or begin another."""
    one = finding("file-name", "50% of it: bad, is it", "a:b,c%.txt", 3, detail="x\n::error::y")
    (line,) = shown.github([one]).splitlines()
    properties, _, message = line.removeprefix("::").partition("::")
    assert properties == "warning file=a%3Ab%2Cc%25.txt,line=3,title=sepal%3A file-name"
    assert message.startswith("50%25 of it: bad, is it%0Ax%0A::error::y%0A")


def test_colours_are_for_terminals_only() -> None:
    """Text is painted when it is asked for, and holds no control characters of a repository's own."""
    one = finding("file-name", "\x1b[2J", "\x1b.txt")
    assert "\x1b" not in shown.text([one])
    assert shown.text([one], colours=True).count("\x1b[33m") == 1


def test_every_code_is_documented() -> None:
    """docs/check.md has a row for each code, with its level; no code is made up elsewhere."""
    page = (ROOT / "docs/check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", page, re.MULTILINE))
    assert rows == {code: rule.level.value for code, rule in RULES.items()}
    for path in Path(checks.__file__).parent.glob("*.py"):
        for code in re.findall(r'finding\(\s*"([\w-]+)"', path.read_text()):
            assert code in RULES, (path.name, code)


@pytest.mark.parametrize("name", ["basin-rivers", "bfast_gpu", "eSBAE_notebooks", "gwb", "se.plan", "vector_manager"])
def test_real_files_are_told_what_is_true_of_them(name: str, tmp_path: Path) -> None:
    """The platform's own environment files: `defaults` is the one trap they share, and nothing else is made of them."""
    real = SHARED / "environments" / f"{name}.yml"
    if not real.is_file():
        pytest.skip("the real environment files are not beside this project")
    files = {"sepal_environment.yml": real.read_text(), "pyproject.toml": "[project]\nname = 'x'\n"}
    assert [one.code for one in look(tmp_path / name, files)] == ["defaults-channel"]


# ------------------------------------------------------------------------------------------------------ the dry run


def test_the_dry_run_says_what_would_be_installed(conda_site: Site) -> None:
    """The real engine solves without installing: packages and bytes are counted, the pip section's included."""
    folder = conda_site.repository("forest")
    text = "channels: [conda-forge]\ndependencies: [python, sepal-demo, pip: [./local]]\n"
    project = '[project]\nname = "local-thing"\nversion = "3.2.1"\n'
    commit(folder, {"sepal_environment.yml": text, "local/pyproject.toml": project})
    found = {one.code: one for one in run_checks(tree(folder, conda_site.settings()))}
    assert set(found) == {"not-in-catalog", "python-unpinned", "solved"}, found
    counted = re.search(r"(\d+) conda packages, [\d.]+ [kMG]?B to download and 1 pip package", found["solved"].message)
    assert counted and int(counted[1]) > 20, found["solved"]
    assert not conda_site.store.root.exists(), "a check leaves nothing in the store"


def test_what_cant_be_solved_comes_with_the_solvers_words(conda_site: Site) -> None:
    """An unsolvable file is an error of its own code, with the explanation; a wrong pip line another."""
    folder = conda_site.repository("forest")
    commit(folder, {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python=3, broken-dep]\n"})
    found = {one.code: one for one in run_checks(tree(folder, conda_site.settings()))}
    assert "no-such-library" in found["unsolvable"].detail and found["unsolvable"].level is Level.ERROR
    commit(
        folder, {"sepal_environment.yml": "dependencies: [python, pip: [./local]]\n", "local/setup.py": "raise Exit\n"}
    )
    found = {one.code: one for one in run_checks(tree(folder, conda_site.settings()))}
    assert found["pip-failed"].detail


def test_a_wheel_that_nobody_named_is_found(conda_site: Site) -> None:
    """A dependency of the pip section that brings PROJ or GDAL over conda's is found by solving."""
    folder = conda_site.repository("forest")
    project = '[project]\nname = "thing"\nversion = "1"\ndependencies = ["pyproj"]\n'
    text = "channels: [conda-forge]\ndependencies:\n- python\n- proj\n- pip:\n  - -e .\n"
    commit(folder, {"sepal_environment.yml": text, "pyproject.toml": project})
    found = {one.code: one for one in run_checks(tree(folder, conda_site.settings()))}
    assert "pyproj" in found["pip-wheel-over-conda"].message, found
    commit(folder, {"sepal_environment.yml": text.replace("- proj\n", "- pyproj\n")})
    assert "pip-wheel-over-conda" not in {one.code for one in run_checks(tree(folder, conda_site.settings()))}


def test_a_requirements_file_is_resolved(site: Site) -> None:
    """A requirements.txt is resolved as a whole, with ipykernel."""
    folder = site.repository("forest")
    commit(folder, {"requirements.txt": "six\n"})
    found = {one.code: one for one in run_checks(tree(folder, site.settings()))}
    assert re.search(r"\d\d pip packages", found["solved"].message), found


# ------------------------------------------------------------------------------------------------------- the examples


def run_example(command: str, folder: Path, code: int) -> str:
    """Run a command of an example as its shell would, with the programs of the environment that runs the tests."""
    import os

    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_workflow_runs_the_check(tmp_path: Path, conda_site: Site) -> None:
    """The example workflow is one that GitHub reads, and the very command in it annotates a small repository."""
    document = yaml.safe_load((ROOT / "examples/ci/sepal-check.yml").read_text())
    assert "pull_request" in document[True]  # YAML 1.1 takes `on` for true
    (job,) = document["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    (check,) = [command for command in commands if "jupyter sepal check" in command]
    assert any("sepal-provisioner[" in command for command in commands) and "--format=github" in check
    folder = tmp_path / "forest"
    commit(folder, {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"})
    config = Path.home() / "config"
    config.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(conda_site.config(), config / "jupyter_server_config.py")
    out = run_example(check, folder, 1)
    assert "::error file=sepal_environment.yml,title=sepal%3A unsolvable::" in out


def test_the_pre_commit_hook_runs_the_check(tmp_path: Path) -> None:
    """The hook is what pre-commit reads, its pattern meets the files that count, and its command checks a tree."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language"} <= set(hook) and hook["pass_filenames"] is False
    (repo,) = yaml.safe_load((ROOT / "examples/ci/.pre-commit-config.yaml").read_text())["repos"]
    assert [one["id"] for one in repo["hooks"]] == [hook["id"]] and {"repo", "rev"} <= set(repo)
    for name in ("sepal_environment.yml", "sepal_environment.lock", "requirements.txt", "a/ui.ipynb", "logo.png"):
        assert re.search(hook["files"], name), name
    assert not re.search(hook["files"], "data/requirements.md")
    folder = tmp_path / "forest"
    commit(folder, {"sepal_environment.yml": SOUND})
    run_example(hook["entry"], folder, 0)
    (folder / "sepal_environment.yml").write_text("dependencies: {}\n")
    run_example(hook["entry"], folder, 1)
