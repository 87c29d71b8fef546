"""`jupyter sepal` env, run, shell and log -f: in real terminals, from a real prefix, during a real build."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import SMALL, Site
from slow import slow_channel

from sepal_provisioner import locks
from sepal_provisioner.builds import Build, request_build
from sepal_provisioner.commands.env import export_lines
from sepal_provisioner.environ import Decision
from sepal_provisioner.progress import Phase

BROKEN = "channels: [conda-forge]\ndependencies: [python, broken-dep]\n"
FOREIGN = {
    "PROJ_LIB": "/usr/share/proj",
    "PYTHONPATH": os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), "/foreign"]),
    "MINE": "it's $HOME `x`\n2",
}


def command(site: Site, verb: str, *arguments: str) -> list[str]:
    """A verb's command line, with the site's configuration."""
    return [sys.executable, "-m", "jupyter", "sepal", verb, f"--config={site.config()}", *arguments]


def sepal(
    site: Site, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a verb, which must end with `code`."""
    done = subprocess.run(
        command(site, *arguments), capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, words: list[str], env: Mapping[str, str]) -> None:
        self.pid, self._side = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, {**os.environ, "TERM": "dumb", **env})
        self.seen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._side, text.encode())

    def expect(self, text: str) -> None:
        """Read until a text has appeared, or the process has ended."""
        while text not in self.seen:
            try:
                data = os.read(self._side, 65536)
            except OSError:
                data = b""
            assert data, f"{text!r} never appeared: {self.seen}"
            self.seen += data.decode(errors="replace")

    def end(self) -> int:
        """Read to the end; the exit code."""
        with contextlib.suppress(OSError):
            while data := os.read(self._side, 65536):
                self.seen += data.decode(errors="replace")
        os.close(self._side)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


# ------------------------------------------------------------------------------------------------------------- run


def test_run_is_exactly_the_launch_environment(built: Site) -> None:
    """The command gets what a kernel would get, from this folder, its arguments unread, and its exit code is ours."""
    code = "import json, os, sys; print(json.dumps([sys.prefix, dict(os.environ), sys.argv[1:], os.getcwd()]))"
    arguments = ["--help", "--json", "--", "-x", "a b"]
    done = sepal(built, "run", "venv-geo", "--", "python", "-c", code, *arguments, env=FOREIGN)
    prefix, env, argv, folder = json.loads(done.stdout)
    generation = built.stores.observe(built.stores.find("venv-geo")[1]).ready
    assert generation is not None and prefix == str(generation.path)
    assert (env["PROJ_LIB"], env["MINE"], env["GREETING"]) == (
        f"{prefix}/share/proj", FOREIGN["MINE"], "$(touch /tmp/never) stays as it is",
    )  # fmt: skip
    assert "PYTHONPATH" not in env and env["PATH"].startswith(f"{prefix}/bin:")
    assert (argv, folder) == (arguments, os.getcwd())
    assert not sepal(built, "run", "geo", "--", "sh", "-c", "exit 7", code=7).stdout


def test_a_command_holds_its_prefix(built: Site) -> None:
    """While it runs nobody can remove the prefix, and when it has ended anybody who may can."""
    marker = built.stores.observe(built.stores.find("venv-geo")[1]).ready.marker  # type: ignore[union-attr]
    words = command(built, "run", "venv-geo", "--", "cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"x\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"x\n"
        assert locks.shared(marker)
        process.stdin.close()
    assert not locks.shared(marker)


def test_a_command_takes_a_closed_pipe_as_usual(built: Site) -> None:
    """`jupyter sepal run … | head` ends the command by SIGPIPE: that Python ignores it is undone."""
    words = " ".join(command(built, "run", "geo", "--", "yes"))
    done = subprocess.run(["bash", "-c", f"{words} | head -1"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("y\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "venv-geo"), 2, "behind `--` a command"),
        (("run", "--", "ls"), 2, "Name one kernel"),
        (("run", "venv-geo", "--", "no-such-program"), 127, "no-such-program"),
        (("run", "venv-none", "--", "ls"), 6, "jupyter sepal list"),
        (("shell",), 2, "Name one kernel"),
        (("env",), 2, "Name one kernel"),
        (("env", "venv-geo", "--json", "--export"), 2, "one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_in_words(built: Site, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Each mistake has its exit code and a sentence that helps."""
    done = sepal(built, *arguments, code=code)
    assert words in done.stderr + done.stdout


def test_what_is_not_ready_names_the_command_that_helps(conda_site: Site) -> None:
    """Never built and failed: run, shell and env say which command comes next."""
    conda_site.add("new", {"sepal_environment.yml": SMALL})
    conda_site.add("broken", {"sepal_environment.yml": BROKEN})
    conda_site.sync()
    for arguments in (("run", "new", "--", "ls"), ("shell", "new"), ("env", "new")):
        assert "jupyter sepal build venv-new" in sepal(conda_site, *arguments, code=6).stderr
    with contextlib.suppress(Exception):
        conda_site.build("venv-broken")
    told = sepal(conda_site, "shell", "broken", code=6).stderr
    assert "its build failed" in told and "jupyter sepal build venv-broken --force" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_prefix_of_another_user_is_not_entered(conda_site: Site) -> None:
    """What no launch would start is neither run, nor entered, nor explained."""
    conda_site.add("one", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    generation = conda_site.build("venv-one")
    os.chown(generation.path, 12345, 12345)
    for arguments in (("run", "one", "--", "ls"), ("shell", "one"), ("env", "one", "--export")):
        done = sepal(conda_site, *arguments, code=7)
        assert "another user owns it" in done.stderr and not done.stdout


# ----------------------------------------------------------------------------------------------------------- shell


def test_a_shell_is_interactive_and_in_the_environment(built: Site) -> None:
    """On a terminal it prompts, finds the prefix's own python, knows its name, and ends with its last exit code."""
    shell = Terminal(command(built, "shell", "geo"), {"SHELL": "/bin/sh", "PS1": "prompt> ", **FOREIGN})
    shell.expect("prompt> ")
    shell.type("echo name=$SEPAL_ENVIRONMENT; command -v python; echo proj=$PROJ_LIB\n")
    shell.type("case $- in *i*) echo yes$(echo i);; esac\n")
    shell.expect("yesi")
    shell.type("exit 5\n")
    assert shell.end() == 5
    prefix = built.stores.observe(built.stores.find("venv-geo")[1]).ready.path  # type: ignore[union-attr]
    for line in ("name=venv-geo", f"{prefix}/bin/python", f"proj={prefix}/share/proj"):
        assert line in shell.seen.splitlines(), shell.seen


# ------------------------------------------------------------------------------------------------------------- env


def test_env_explains_each_variable(built: Site) -> None:
    """Removed, changed and added variables with value and reason; the inherited ones only with --all."""
    found = json.loads(sepal(built, "env", "geo", "--json", env=FOREIGN).stdout)
    prefix, variables = found["prefix"], {one["name"]: one for one in found["variables"]}
    assert variables["PROJ_LIB"]["value"] == f"{prefix}/share/proj"
    assert variables["PROJ_LIB"]["inherited"] == "/usr/share/proj"
    assert variables["PYTHONPATH"]["value"] is None and "another environment" in variables["PYTHONPATH"]["reason"]
    assert variables["GREETING"] == {
        "name": "GREETING", "value": "$(touch /tmp/never) stays as it is", "inherited": None,
        "reason": "set by the environment file",
    }  # fmt: skip
    assert len(variables) == len(found["variables"]) and "MINE" not in variables
    text = sepal(built, "env", "geo", env=FOREIGN).stdout
    assert "PYTHONPATH (removed)\n" in text and f"CONDA_PREFIX = {prefix}\n" in text and "MINE" not in text
    everything = sepal(built, "env", "geo", "--all", env=FOREIGN).stdout
    assert "MINE = it's $HOME `x`\\n2\n    inherited\n" in everything, "a line break stays on its line"


def test_exported_lines_make_the_same_environment(built: Site) -> None:
    """A shell that evaluates them has what `run` gives, and nothing in a value is expanded or run."""
    lines = sepal(built, "env", "geo", "--export", "--all", env=FOREIGN).stdout
    dump = "import json, os; print(json.dumps(dict(os.environ)))"
    own = {"_", "SHLVL", "PWD", "OLDPWD"}
    script = f"eval \"$LINES_\"; unset LINES_; python -c '{dump}'"
    env = {**os.environ, **FOREIGN, "LINES_": lines}
    done = subprocess.run(["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, check=True)
    exported = {name: value for name, value in json.loads(done.stdout).items() if name not in own}
    given = json.loads(sepal(built, "run", "geo", "--", "python", "-c", dump, env=FOREIGN).stdout)
    assert exported == {name: value for name, value in given.items() if name not in own}
    assert not Path("/tmp/never").exists()


def test_a_name_that_no_shell_knows_is_not_exported() -> None:
    """A variable such as an exported function can't become a line that means something else."""
    decisions = [Decision("BASH_FUNC_x%%", "() { :; }", ""), Decision("A;rm x", None, ""), Decision("B", "1 2", "")]
    assert list(export_lines(decisions)) == ["export B='1 2'"]


# ---------------------------------------------------------------------------------------------------------- log -f


@contextlib.contextmanager
def downloading(site: Site, name: str) -> Iterator[Build]:
    """A build that is under way; what began it looks after it, so that it is over when the block ends."""
    build = request_build(site.stores, name, site.settings())
    assert isinstance(build, Build)
    while build.progress is None or build.progress.phase is not Phase.DOWNLOAD:
        assert build.step() is None
        time.sleep(0.05)
    yield build
    build.wait()


def test_a_log_is_followed_until_the_build_ends(conda_site: Site, channel: Path) -> None:
    """On a terminal, lines come while the build runs, nothing is missing at the end, and the exit code is 0."""
    conda_site.add("long", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    with slow_channel(channel, 300_000) as (slow, line):
        conda_site.mirrors = slow
        with downloading(conda_site, "venv-long") as build:
            terminal = Terminal(command(conda_site, "log", "-f", "long"), {})
            terminal.expect("# specs: ")
            assert build.step() is None
            line.open()
            assert terminal.end() == 0
    assert "probe" in terminal.seen
    assert terminal.seen.replace("\r\n", "\n") == build.log.read_text()


def test_following_waits_for_a_build_that_fails(conda_site: Site) -> None:
    """Asked for before the build begins, it says that it waits, then follows it and ends with its failure's exit code.

    What it shows is this build's log, and not that of the failure before."""
    conda_site.add("broken", {"sepal_environment.yml": BROKEN})
    conda_site.sync()
    with contextlib.suppress(Exception):
        conda_site.build("venv-broken")
    words = command(conda_site, "log", "--follow", "broken")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and "waiting" in process.stderr.readline()
        build = request_build(conda_site.stores, "venv-broken", conda_site.settings(), force=True)
        assert isinstance(build, Build)
        with contextlib.suppress(Exception):
            build.wait()
        out, err = process.communicate()
    assert process.returncode == 12 and "failed: [unsolvable]" in err
    assert out == build.log.read_text() and out.count("$ ") == 1
