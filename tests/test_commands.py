"""`jupyter sepal` as a person and as a script would use it: real processes, the server's own configuration."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Site

from sepal_provisioner.commands.app import VERBS
from sepal_provisioner.commands.command import SepalCommand
from sepal_provisioner.pool import Row, Step

BROKEN = "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"


def sepal(site: Site, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a verb with the site's configuration; it must end with `code`."""
    command = [sys.executable, "-m", "jupyter", "sepal", *arguments, f"--config={site.config()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def document(site: Site, *arguments: str, code: int = 0) -> Any:
    """The JSON document of a verb: all of its standard output."""
    return json.loads(sepal(site, *arguments, "--json", code=code).stdout)


def test_the_way_of_an_administrator(conda_site: Site) -> None:
    """sync, list, build, log, status: each does what it says, and each document has its documented keys."""
    moved = conda_site.add("Forest", {"sepal_environment.yml": SMALL}, label="Forêt 森")
    conda_site.apps.append({"id": "bad"})
    conda_site.write()
    synced = document(conda_site, "sync")
    assert synced["kernels"] == synced["added"] == ["venv-forest"]
    assert [problem["place"].split(": ")[-1] for problem in synced["problems"]] == ["apps[1].label"]

    (listed,) = document(conda_site, "list")
    assert list(listed) == [
        "name", "display_name", "label", "app", "repository", "commit", "environment_file", "fingerprint", "state",
        "prefix",
    ]  # fmt: skip
    assert (listed["name"], listed["commit"], listed["state"], listed["prefix"]) == (
        "venv-forest", moved, "missing", None,
    )  # fmt: skip

    (built,) = document(conda_site, "build", "forest")["builds"]
    assert built["size"] > 50_000_000
    assert built["state"] == "ready" and built["built"] and Path(built["prefix"], "bin", "python").exists()
    (again,) = document(conda_site, "build", "--all")["builds"]
    assert (again["built"], again["prefix"]) == (False, built["prefix"])
    assert document(conda_site, "list")[0]["prefix"] == built["prefix"]

    log = document(conda_site, "log", "venv-forest")
    assert log["text"].startswith("$ ") and Path(log["path"]).is_file()
    assert sepal(conda_site, "log", "VENV-FOREST").stdout == log["text"]

    overview = document(conda_site, "status")
    assert overview["kernels"]["ready"] == 1 and overview["engines"]["rattler"]
    assert overview["stores"][0]["catalogs"][0]["apps"] == 1
    (one,) = document(conda_site, "status", "venv-forest")
    assert one["build"]["packages"] > 20 and one["failure"] is None

    text = sepal(conda_site, "list").stdout
    assert "venv-forest" in text and "ready" in text and "Forêt 森" in text


def test_builds_side_by_side_and_a_failure_among_them(conda_site: Site) -> None:
    """--all --jobs=2: the sound one is ready, the broken one is told with the solver's words, the exit code is its."""
    conda_site.add("good", {"sepal_environment.yml": SMALL})
    conda_site.add("broken", {"sepal_environment.yml": BROKEN})
    conda_site.sync()
    done = sepal(conda_site, "build", "--all", "--jobs=2", code=12)
    assert "venv-good: ready after" in done.stdout and "1 ready, 1 failed" in done.stdout
    assert "no-such-library" in done.stderr and "jupyter sepal log venv-broken" in done.stderr
    assert "venv-good: Verifying" in done.stderr, "plain lines where there is no terminal"
    results = {result["name"]: result for result in document(conda_site, "build", "--all", code=12)["builds"]}
    assert results["venv-broken"]["error"]["code"] == "unsolvable"
    assert "no-such-library" in results["venv-broken"]["error"]["detail"]
    status = sepal(conda_site, "status", "venv-broken").stdout
    assert "[unsolvable]" in status and "--force" in status


def test_force_builds_again(conda_site: Site) -> None:
    """--force makes a new prefix beside the old one."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    first = document(conda_site, "build", "one")["builds"][0]["prefix"]
    second = document(conda_site, "build", "one", "--force")["builds"][0]["prefix"]
    assert first.endswith("-1") and second.endswith("-2") and Path(first).is_dir()


def test_a_table_on_a_terminal(conda_site: Site) -> None:
    """On a terminal the builds are drawn in one table with bar and phase; a report with the results ends it."""
    pytest.importorskip("rich")
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.add("broken", {"sepal_environment.yml": BROKEN})
    conda_site.sync()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "jupyter", "sepal", "build", "--all", f"--config={conda_site.config()}"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, text=True, env=env) as process:
        os.close(theirs)
        drawn = b""
        try:
            while chunk := os.read(ours, 65536):
                drawn += chunk
        except OSError:  # the terminal's other end is closed
            pass
        assert process.stdout is not None
        report = process.stdout.read()
    assert re.search(r"^venv-one +ready +\d.* MB$", report, re.MULTILINE), report
    assert re.search(r"^venv-broken: \[unsolvable\] No set", report, re.MULTILINE), report
    assert "1 ready, 1 failed" in report and process.returncode == 12
    os.close(ours)
    text = drawn.decode(errors="replace")
    assert "venv-one" in text and "━" in text and "Verifying" in text and "waiting" in text


def test_a_table_is_never_longer_than_the_screen() -> None:
    """What does not fit is counted in its last line, and a name that looks like markup is shown as it is."""
    console = pytest.importorskip("rich.console").Console(width=100, record=True, file=io.StringIO())
    from sepal_provisioner.commands.live import _table

    rows = [Row("venv-[red]", Step.RUNNING, None, 3), *(Row(f"venv-{n}", Step.WAITING) for n in range(8))]
    console.print(_table(rows, 90, 4))
    lines = console.export_text().splitlines()
    assert len(lines) == 6 and "venv-[red]" in lines[1] and "… 5 more" in lines[5] and "5 waiting" in lines[5]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("build",), 2, "--all"),
        (("build", "venv-none"), 6, "jupyter sepal list"),
        (("log",), 2, "Name one kernel"),
        (("log", "venv-one"), 6, "never built"),
        (("status", "venv-on"), 6, "Did you mean venv-one"),
        (("install", "--user", "--sys-prefix"), 2, "one of"),
        (("install", "--prefix=/proc/nowhere"), 7, "can't be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_in_words(site: Site, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Each mistake has its exit code and a sentence that helps, as text and as JSON."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    assert words in sepal(site, *arguments, code=code).stderr
    assert words in document(site, *arguments, code=code)["error"]["message"]


def test_a_broken_configuration_stops_the_command(site: Site) -> None:
    """A configuration that is damaged, missing, or has an unusable value is never silently replaced by defaults."""
    run = [sys.executable, "-m", "jupyter", "sepal", "list"]
    for text, words in (
        ("this is no python\n", "SyntaxError"),
        ("c.Sepal.store = 'relative/path'\n", "absolute path"),
        ("c.Sepal.engine = 'conda'\n", "engine"),
    ):
        broken = site.root / "broken.py"
        broken.write_text(text)
        done = subprocess.run([*run, f"--config={broken}"], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    done = subprocess.run([*run, f"--config={site.root}/none.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "There is no configuration file" in done.stderr


def test_the_servers_own_configuration_is_read(site: Site) -> None:
    """Without --config, jupyter_server_config.py in Jupyter's configuration folder holds the settings."""
    site.add("one", {"sepal_environment.yml": SMALL})
    site.sync()
    folder = Path(os.environ["JUPYTER_CONFIG_DIR"])
    folder.mkdir(parents=True)
    (folder / "jupyter_server_config.py").write_bytes(site.config().read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "sepal", "list", "--json"], capture_output=True, text=True, check=True
    )
    assert [kernel["name"] for kernel in json.loads(done.stdout)] == ["venv-one"]


def test_nothing_configured_is_said(site: Site) -> None:
    """Without a catalog or before the first sync, the next command is named."""
    site.options["catalogs"] = []
    assert "c.Sepal.catalogs" in sepal(site, "sync").stderr
    assert "jupyter sepal sync" in sepal(site, "list").stderr
    assert document(site, "list") == []


def test_a_reader_that_has_seen_enough_is_no_error(site: Site) -> None:
    """`jupyter sepal list | head` ends without a word."""
    for number in range(3):
        site.add(f"app{number}", {"sepal_environment.yml": SMALL})
    site.sync()
    for arguments in (f"list --config={site.config()}", "build --help-all", "--help"):
        command = f"set -o pipefail; {sys.executable} -m jupyter sepal {arguments} | true"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert not done.stderr, done.stderr


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.verb)
def test_the_help_of_each_verb_has_two_examples(verb: type[SepalCommand], capsys: pytest.CaptureFixture[str]) -> None:
    """What `--help` prints, and not only what the class holds: two command lines of that verb, and what it does."""
    with pytest.raises(SystemExit) as ended:
        verb().initialize(["--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(re.findall(rf"^ *(?:\S+ <?\(?)?jupyter sepal {verb.verb}\b.*$", printed, re.MULTILINE)) >= 2, printed
    assert "--json" in printed and "--config" in printed
