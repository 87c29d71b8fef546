"""One contract for every engine that is installed: what a prefix holds afterwards, and how a failure is told."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from conftest import mirrors

from sepal_provisioner import engines
from sepal_provisioner.engines import micromamba
from sepal_provisioner.engines.channels import conda_request
from sepal_provisioner.engines.resolve import resolve_section
from sepal_provisioner.engines.solution import Solution
from sepal_provisioner.envfile import parse_conda, parse_requirements
from sepal_provisioner.environ import build_environment
from sepal_provisioner.errors import BuildError, DownloadError, KilledError, NoEngineError, PipError, SolveError
from sepal_provisioner.progress import Phase, Progress, Reporter
from sepal_provisioner.settings import Sepal

CONDA_ENGINES = [
    pytest.param(
        "micromamba",
        marks=pytest.mark.skipif(
            micromamba.program(Sepal()) is None, reason="micromamba is neither on PATH nor named by MAMBA_EXE"
        ),
    ),
    "rattler",
]


class Trial:
    """One engine at work in a folder of its own."""

    def __init__(self, tmp_path: Path, channel: Path, **settings: object) -> None:
        self.prefix = tmp_path / "prefix"
        self.folder = tmp_path / "checkout"
        self.folder.mkdir()
        self.cache = tmp_path / "pkgs"
        self.lines: list[str] = []
        self.seen: list[Progress] = []
        self.settings = Sepal(channel_mirrors=mirrors(channel), **settings)
        self.reporter = Reporter(tmp_path / "progress.json", "venv-trial", "0" * 16)

    def create(self, engine: str, text: str) -> None:
        """Create the prefix from the text of an environment or requirements file."""
        write = self.reporter._write

        def watched(force: bool = False) -> None:
            self.seen.append(self.reporter.progress)
            write(force)

        self.reporter._write = watched  # type: ignore[method-assign]
        engines.ENGINES[engine].create(self.job(text, engine))

    def solve(self, engine: str, text: str) -> Solution:
        """What would be installed for the text of an environment or requirements file."""
        return engines.ENGINES[engine].solve(self.job(text, engine))

    def job(self, text: str, engine: str) -> engines.Job:
        """What an engine gets."""
        file = parse_requirements(text) if engine == "uv" else parse_conda(text)
        return engines.Job(
            prefix=self.prefix,
            file=file,
            folder=self.folder,
            cache=self.cache,
            settings=self.settings,
            reporter=self.reporter,
            env=build_environment(os.environ),
            log=self.lines.append,
            deadline=lambda: 300,
        )

    def python(self, code: str) -> str:
        """Run code with the prefix's interpreter."""
        command = [str(self.prefix / "bin" / "python"), "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


@pytest.fixture
def trial(tmp_path: Path, channel: Path) -> Trial:
    return Trial(tmp_path, channel)


@pytest.mark.parametrize("engine", CONDA_ENGINES)
def test_a_conda_file_becomes_a_prefix(engine: str, trial: Trial) -> None:
    """Specs, ipykernel, pip and the pip section are all there, and the prefix is its interpreter's own."""
    (trial.folder / "local").mkdir()
    (trial.folder / "local" / "pyproject.toml").write_text('[project]\nname = "local-thing"\nversion = "3.2.1"\n')
    trial.create(
        engine,
        "channels: [conda-forge, defaults]\n"
        "dependencies:\n- python\n- sepal-demo=1.*\n- conda-forge::toml\n- pip:\n  - ./local\n",
    )
    assert trial.python("import sys; print(sys.prefix)") == str(trial.prefix)
    assert trial.python("import sepal_demo; print(sepal_demo.__version__)") == "1.0"
    assert trial.python("import ipykernel, pip, toml") == ""
    assert trial.python("import importlib.metadata as m; print(m.version('local-thing'))") == "3.2.1"


@pytest.mark.parametrize("engine", CONDA_ENGINES)
def test_a_dry_run_says_what_a_build_installs(engine: str, trial: Trial) -> None:
    """`solve` counts the packages and bytes that `create` then installs, pip's too, and makes nothing."""
    text = "channels: [conda-forge]\ndependencies: [python, sepal-demo=1.*, pip: [six==1.16.0]]\n"
    solution = trial.solve(engine, text)
    assert solution.size > 0 and not trial.prefix.exists()
    assert solution.pip == ("six 1.16.0",)
    trial.create(engine, text)
    records = [json.loads(path.read_bytes()) for path in (trial.prefix / "conda-meta").glob("*.json")]
    assert set(solution.conda) == {f"{record['name']} {record['version']}" for record in records}


@pytest.mark.parametrize("engine", CONDA_ENGINES)
def test_a_dry_run_explains_what_cant_be_solved(engine: str, trial: Trial) -> None:
    """`solve` fails as `create` would, with the solver's own words."""
    with pytest.raises(SolveError) as caught:
        trial.solve(engine, "channels: [conda-forge]\ndependencies: [python, broken-dep]\n")
    assert "no-such-library" in caught.value.detail
    with pytest.raises(PipError):
        trial.solve(engine, "channels: [conda-forge]\ndependencies: [python, pip: [./none]]\n")


@pytest.mark.parametrize("fallback", [False, True], ids=["uv", "pip"])
def test_requirements_are_resolved_without_installing(
    fallback: bool, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv, or pip in its place: the file's packages with what they need and ipykernel, and no prefix."""
    if fallback:
        monkeypatch.setattr("sepal_provisioner.engines.resolve.uv_program", lambda: None)
    solution = trial.solve("uv", "toml==0.10.2\n")
    assert "toml 0.10.2" in solution.pip and any(name.startswith("ipykernel ") for name in solution.pip)
    assert not trial.prefix.exists()
    with pytest.raises(PipError):
        trial.solve("uv", "./there-is-no-such-folder\n")


def test_without_uv_another_pythons_pip_section_is_not_guessed(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip resolves for the Python that runs it: for another one the solution says that it was not tried."""
    monkeypatch.setattr("sepal_provisioner.engines.resolve.uv_program", lambda: None)
    job = trial.job("channels: [conda-forge]\ndependencies: [pip: [toml]]\n", "rattler")
    solution = resolve_section(job, Solution(conda=("python 3.99.1",)))
    assert solution.pip == () and "Python 3.99" in solution.notes[0]


def test_micromambas_plan_is_read() -> None:
    """What `micromamba create --dry-run --json` prints becomes names and the bytes that are not in the cache yet."""
    python = {"name": "python", "version": "3.12.1", "size": 30}
    plan = {
        "actions": {"FETCH": [python], "LINK": [python, {"name": "pip", "version": "24", "size": 5}]},
        "success": True,
    }
    solution = micromamba._planned(json.dumps(plan))
    assert (solution.conda, solution.size) == (("pip 24", "python 3.12.1"), 30)
    with pytest.raises(BuildError, match="plan"):
        micromamba._planned("[]")


@pytest.mark.parametrize("engine", CONDA_ENGINES)
def test_progress_is_real_and_never_runs_backwards(engine: str, trial: Trial) -> None:
    """Every phase is reported in order, packages are counted to their total, and the fraction only grows."""
    trial.create(engine, "channels: [conda-forge]\ndependencies: [python, sepal-demo]\n")
    phases = list(dict.fromkeys(progress.phase for progress in trial.seen))
    assert phases == [phase for phase in Phase if phase in phases]
    assert {Phase.SOLVE, Phase.LINK} <= set(phases)
    fractions = [progress.fraction for progress in trial.seen]
    assert fractions == sorted(fractions)
    linked = [progress for progress in trial.seen if progress.phase is Phase.LINK]
    packages = len(list((trial.prefix / "conda-meta").glob("*.json")))
    assert linked[-1].total == packages > 20
    assert linked[-1].done == packages


@pytest.mark.parametrize("engine", CONDA_ENGINES)
@pytest.mark.parametrize("spec", ["broken-dep", "needs-cuda", "sepal-demo=9", "no-such-package-at-all"])
def test_an_unsolvable_file_arrives_with_the_solvers_own_words(engine: str, trial: Trial, spec: str) -> None:
    """The error is SolveError, and its detail is the solver's explanation, which names the package."""
    with pytest.raises(SolveError) as caught:
        trial.create(engine, f"channels: [conda-forge]\ndependencies: [python, {spec}]\n")
    assert spec.split("=", maxsplit=1)[0] in caught.value.detail
    assert not (trial.prefix / "conda-meta").exists()


@pytest.mark.parametrize("engine", CONDA_ENGINES)
def test_a_channel_that_is_not_there_is_a_download_error(engine: str, tmp_path: Path, channel: Path) -> None:
    """A mirror that leads nowhere is told as such, not as an unsolvable file."""
    trial = Trial(tmp_path, channel)
    trial.settings.channel_mirrors = {"conda-forge": "http://127.0.0.1:9/conda-forge"}
    with pytest.raises(DownloadError, match="channel"):
        trial.create(engine, "channels: [conda-forge]\ndependencies: [python]\n")


@pytest.mark.parametrize("engine", [*CONDA_ENGINES, "uv"])
def test_a_pip_package_that_is_not_there_is_a_pip_error(engine: str, trial: Trial) -> None:
    """The installer's last lines come with the error, and the log holds the command that failed."""
    missing = "./there-is-no-such-folder"
    text = missing if engine == "uv" else f"channels: [conda-forge]\ndependencies: [python, pip: [{missing}]]\n"
    with pytest.raises(PipError) as caught:
        trial.create(engine, text)
    assert "there-is-no-such-folder" in caught.value.detail
    assert any(line.startswith("$ ") and "pip install" in line for line in trial.lines)


@pytest.mark.parametrize("fallback", [False, True], ids=["uv", "venv and pip"])
def test_a_requirements_file_becomes_a_prefix(
    fallback: bool, tmp_path: Path, channel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv, or venv and pip in its place: the site's default requirements, the file's own, ipykernel and pip."""
    if fallback:
        monkeypatch.setattr("sepal_provisioner.engines.pip.uv_program", lambda: None)
        monkeypatch.setattr("sepal_provisioner.engines.uv.uv_program", lambda: None)
    trial = Trial(tmp_path, channel, default_requirements=["toml"])
    (trial.folder / "more.txt").write_text("six\n")
    trial.create("uv", "-r more.txt\n")
    assert trial.python("import sys; print(sys.prefix)") == str(trial.prefix)
    assert trial.python("import toml, six, ipykernel, pip") == ""
    used = [line for line in trial.lines if line.startswith("$ ") and "install" in line]
    assert len(used) == 2, "the defaults first, then the file"
    assert all(("uv pip install" in line) != fallback for line in used)


@pytest.mark.parametrize("fallback", [False, True], ids=["uv", "venv and pip"])
def test_a_local_project_keeps_its_marker(fallback: bool, trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two local projects only that is installed whose marker holds, and a wheel is found where `-f` looks."""
    if fallback:
        monkeypatch.setattr("sepal_provisioner.engines.pip.uv_program", lambda: None)
        monkeypatch.setattr("sepal_provisioner.engines.uv.uv_program", lambda: None)
    for name in ("wanted", "unwanted"):
        (trial.folder / name).mkdir()
        (trial.folder / name / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "1"\n')
    wheel = "found_here-1-py3-none-any.whl"
    (trial.folder / "wheels").mkdir()
    with zipfile.ZipFile(trial.folder / "wheels" / wheel, "w") as archive:
        archive.writestr("found_here.py", "")
        archive.writestr("found_here-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: found-here\nVersion: 1\n")
        archive.writestr("found_here-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("found_here-1.dist-info/RECORD", "")
    trial.create(
        "uv", "-f ./wheels\nfound-here\n./wanted ; python_version > '3'\n./unwanted;python_version < '3'  # old\n"
    )
    installed = trial.python("import importlib.metadata as m; print(*(d.name for d in m.distributions()))").split()
    assert {"wanted", "found-here"} <= set(installed) and "unwanted" not in installed


def test_without_any_engine_the_message_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither micromamba nor py-rattler: the error names both and the command that installs one."""
    monkeypatch.setitem(engines.ENGINES, "micromamba", _Absent())
    monkeypatch.setitem(engines.ENGINES, "rattler", _Absent())
    file = parse_conda("dependencies: [python]\n")
    with pytest.raises(NoEngineError, match=r"micromamba.*py-rattler.*pip install"):
        engines.choose(file, Sepal())
    assert engines.choose(parse_requirements("six\n"), Sepal()) == "uv"


class _Absent:
    def version(self, settings: Sepal) -> None:
        return None


def test_auto_prefers_micromamba(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both there, `auto` takes micromamba, and the setting can say otherwise."""

    class Present(_Absent):
        def version(self, settings: Sepal) -> str:  # type: ignore[override]
            return "2.8.1"

    monkeypatch.setitem(engines.ENGINES, "micromamba", Present())
    file = parse_conda("dependencies: [python]\n")
    assert engines.choose(file, Sepal()) == "micromamba"
    assert engines.choose(file, Sepal(engine="rattler")) == "rattler"


def test_mirrors_redirect_channels_and_the_specs_that_name_one() -> None:
    """Names, URLs and `channel::package` are redirected; an empty mirror leaves the channel out; order is kept."""
    file = parse_conda(
        "channels: [https://conda.anaconda.org/other/, conda-forge, defaults, nodefaults]\n"
        "dependencies: [conda-forge::gdal=3.8.*, defaults::toml, pytorch::pytorch, python, ipykernel>=6]\n"
    )
    request = conda_request(
        file, {"conda-forge": "file:///srv/cf/", "defaults": "", "https://conda.anaconda.org/other": "http://m/o"}
    )
    assert request.channels == ("http://m/o", "file:///srv/cf")
    assert request.specs == (
        "file:///srv/cf::gdal=3.8.*", "toml", "pytorch::pytorch", "python", "ipykernel>=6", "pip",
    )  # fmt: skip


MICROMAMBA_OUTPUT = """\
conda-forge/linux-64                                        Using cache
Transaction

  Prefix: {prefix}

  Updating specs:

   - python

  Package                Version  Build               Channel           Size
──────────────────────────────────────────────────────────────────────────────
  Install:
──────────────────────────────────────────────────────────────────────────────

  + python                3.11.7  h4a13b97_0_cpython  conda-forge       12MB

  Summary:

  Install: 2 packages

  Total download: 12MB

Transaction starting
Linking tzdata-2026a-hc9c84f9_0
Linking python-3.11.7-h4a13b97_0_cpython
Transaction finished
"""


def test_micromambas_output_becomes_progress(tmp_path: Path, channel: Path) -> None:
    """A stand-in that prints what micromamba prints off a terminal: the counts come from its lines, its command line
    carries prefix, channels and specs, and an unsolvable answer is split from the noise before it."""
    program = tmp_path / "micromamba"
    arguments = tmp_path / "arguments.json"
    program.write_text(
        "#!/usr/bin/env python3\nimport json, sys, pathlib\n"
        "if '--version' in sys.argv: print('2.8.1'); raise SystemExit\n"
        f"pathlib.Path({str(arguments)!r}).write_text(json.dumps(sys.argv[1:]))\n"
        "if 'unsolvable' in sys.argv:\n"
        "    print('noise', 'error    libmamba Could not solve for environment specs', '    The following package',\n"
        "          sep='\\n', file=sys.stderr)\n"
        "    raise SystemExit(1)\n"
        f"print({MICROMAMBA_OUTPUT!r})\n"
    )
    program.chmod(0o755)
    trial = Trial(tmp_path, channel, micromamba=str(program))
    assert micromamba.version(trial.settings) == "2.8.1"
    trial.create("micromamba", "channels: [conda-forge]\ndependencies: [python>=3.10]\n")
    used = json.loads(arguments.read_text())
    assert used[used.index("--prefix") + 1] == str(trial.prefix)
    assert used[used.index("--channel") + 1] == f"file://{channel}/conda-forge"
    assert used[-3:] == ["python>=3.10", "ipykernel", "pip"]
    last = trial.seen[-1]
    assert (last.phase, last.done, last.total) == (Phase.LINK, 2, 2)
    assert any(progress.bytes_total == 12_000_000 for progress in trial.seen)
    with pytest.raises(SolveError) as caught:
        trial.create("micromamba", "channels: [conda-forge]\ndependencies: [unsolvable]\n")
    assert caught.value.detail == "The following package"


def test_a_killed_engine_is_told_as_such(tmp_path: Path, channel: Path) -> None:
    """SIGKILL, which is how a machine short of memory ends a process, has an error and words of its own."""
    program = tmp_path / "micromamba"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 2.8.1 && exit\nkill -9 $$\n')
    program.chmod(0o755)
    trial = Trial(tmp_path, channel, micromamba=str(program))
    with pytest.raises(KilledError, match="memory"):
        trial.create("micromamba", "dependencies: [python]\n")
