"""What a site allows: each setting refuses what it says, at the sync or at the build, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL, Site

from sepal_provisioner import audit
from sepal_provisioner.envfile import read_environment_file
from sepal_provisioner.environ import build_environment
from sepal_provisioner.errors import NoSpaceError, PolicyError
from sepal_provisioner.policy import channels_of, check_file, check_repository
from sepal_provisioner.settings import Sepal
from sepal_provisioner.store import State


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://github.com/sepal-contrib/gwb", True),
        ("https://GitHub.com/Sepal-Contrib/gwb.git", True),
        ("https://user:secret@github.com/sepal-contrib/gwb", True),
        ("ssh://git@github.com/sepal-contrib/gwb", True),
        ("https://gitlab.example.org:8443/any/thing", True),
        ("https://github.com/someone/gwb", False),
        ("https://github.com/sepal-contrib-evil/gwb", False),
        ("https://github.com/sepal-contrib/../someone/gwb", False),
        ("https://github.com.evil.org/sepal-contrib/gwb", False),
        ("https://evil.org/github.com/sepal-contrib/gwb", False),
        ("https://github.com@evil.org/sepal-contrib/gwb", False),
        ("https://gitlab.example.org/any/thing", False),
        ("file:///srv/github.com/sepal-contrib/gwb", False),
        ("https://[", False),
    ],
)
def test_repositories_are_where_they_may_be(url: str, allowed: bool) -> None:
    """A host, a host with an owner and a host with a port allow what is there, and no address that only looks so."""
    settings = Sepal(repository_hosts=["github.com/sepal-contrib", "gitlab.example.org:8443"])
    if allowed:
        check_repository(url, settings)
        return
    with pytest.raises(PolicyError, match=r"c\.Sepal\.repository_hosts") as caught:
        check_repository(url, settings)
    assert "secret" not in caught.value.message


def environment(folder: Path, text: str, **files: str):  # type: ignore[no-untyped-def]
    """An environment file in a folder, read."""
    folder.mkdir(exist_ok=True)
    for name, content in {"sepal_environment.yml": text, **files}.items():
        (folder / name).write_text(content)
    return read_environment_file(folder, "sepal_environment.yml")


def test_channels_are_seen_wherever_they_are_named(tmp_path: Path) -> None:
    """In `channels:`, before `::`, in brackets and as the URL of a package."""
    text = (
        "channels: [conda-forge, nodefaults, 'https://conda.anaconda.org/pytorch']\n"
        "dependencies:\n- fastai::fastai\n- 'gdal[channel=bioconda]'\n- 'proj[url=https://evil.org/x/noarch/p-1-0.conda]'\n"
    )
    assert channels_of(environment(tmp_path, text)) == (
        "conda-forge", "https://conda.anaconda.org/pytorch", "fastai", "bioconda",
        "https://evil.org/x/noarch/p-1-0.conda",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dependency", "allowed"),
    [
        ("python", True),
        ("conda-forge::gdal", True),
        ("https://conda.anaconda.org/conda-forge::gdal", True),
        ("pytorch::pytorch", True),
        ("defaults::gdal", False),
        ("conda-forge/label/dev::gdal", False),
        ("https://conda.anaconda.org.evil.org/conda-forge::gdal", False),
        ("'gdal[channel=evil]'", False),
    ],
)
def test_only_allowed_channels_are_built_from(tmp_path: Path, dependency: str, allowed: bool) -> None:
    """A channel by its name and by conda's own URL for it is one; labels and look-alikes are others."""
    file = environment(tmp_path, f"channels: [conda-forge]\ndependencies: [python, {dependency}]\n")
    settings = Sepal(allowed_channels=["conda-forge", "pytorch"])
    if allowed:
        check_file(file, tmp_path, settings)
    else:
        with pytest.raises(PolicyError, match=r"c\.Sepal\.allowed_channels"):
            check_file(file, tmp_path, settings)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("numpy", True),
        ("git+https://github.com/sepal-contrib/tool@v1", True),
        ("tool @ git+https://github.com/sepal-contrib/tool@v1", True),
        ("--extra-index-url https://pypi.org/simple", True),
        ("git+https://github.com/someone/tool", False),
        ("git+ssh://git@evil.org/sepal-contrib/tool", False),
        ("git+git@evil.org:sepal-contrib/tool", False),
        ("tool @ https://evil.org/tool-1-py3-none-any.whl", False),
        ("--index-url https://user:secret@evil.org/simple", False),
        ("-ihttps://evil.org/simple", False),
        ("--find-links=https://evil.org/wheels", False),
        ("-r more.txt", False),
    ],
)
def test_pip_sections_lead_to_allowed_hosts(tmp_path: Path, line: str, allowed: bool) -> None:
    """Indexes, direct URLs and version control count, also in a requirements file that is included."""
    text = f"channels: [conda-forge]\ndependencies:\n- python\n- pip:\n  - {line}\n"
    file = environment(tmp_path, text, **{"more.txt": "numpy\ntool @ https://evil.org/tool.whl\n"})
    settings = Sepal(allowed_hosts=["pypi.org", "github.com/sepal-contrib"])
    if allowed:
        check_file(file, tmp_path, settings)
        return
    with pytest.raises(PolicyError, match=r"c\.Sepal\.allowed_hosts") as caught:
        check_file(file, tmp_path, settings)
    assert "secret" not in caught.value.message
    if line == "-r more.txt":
        assert caught.value.message.startswith("more.txt: line 2")


def test_a_sync_says_what_a_build_will_be_refused_for(conda_site: Site) -> None:
    """What is not allowed is a problem of the sync; the build ends with `not-allowed`, and the audit file says so."""
    conda_site.options["allowed_channels"] = ["elsewhere"]
    conda_site.add("forest", {"sepal_environment.yml": SMALL})
    report = conda_site.sync()
    assert [kernel.name for kernel in report.index.kernels] == ["venv-forest"]
    assert "the channel conda-forge is not allowed" in report.index.problems[0].message
    with pytest.raises(PolicyError, match="conda-forge is not allowed"):
        conda_site.build("venv-forest")
    (line,) = audit.lines(conda_site.store.root)
    assert (line["action"], line["result"], line["kernel"]) == ("build", "not-allowed", "venv-forest")
    assert line["commit"] == report.index.kernels[0].commit and line["user"] and line["pid"]
    assert not conda_site.store.generations("venv-forest")


def test_a_repository_elsewhere_is_never_asked(site: Site) -> None:
    """An entry outside the allowed hosts is reported and not cloned; the others are."""
    site.options["repository_hosts"] = ["github.com"]
    site.add("forest", {"sepal_environment.yml": SMALL})
    report = site.sync()
    assert not report.index.kernels and "c.Sepal.repository_hosts" in report.index.problems[0].message
    assert not (site.store.apps / "forest").exists()


def test_only_pinned_entries_are_built_where_a_site_wants_that(conda_site: Site) -> None:
    """An entry without a commit is listed, its build is refused with that reason; once it is pinned, it is built."""
    conda_site.options["require_commit"] = True
    seen = conda_site.add("forest", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    with pytest.raises(PolicyError, match=rf"pins no `commit`.*{seen}"):
        conda_site.build("venv-forest")
    assert [line["result"] for line in audit.lines(conda_site.store.root)] == ["not-allowed"]
    conda_site.apps[0]["commit"] = seen
    conda_site.write()
    conda_site.sync()
    assert conda_site.build("venv-forest").marker.exists()


def test_without_space_nothing_is_begun(conda_site: Site) -> None:
    """Below the floor a build ends before it makes anything, with what is free, what is needed, and what helps."""
    conda_site.options["min_free_space"] = 10**18
    conda_site.add("forest", {"sepal_environment.yml": SMALL})
    conda_site.sync()
    with pytest.raises(NoSpaceError, match=r"are free in .* a build needs 1000000\.0 TB.*prune --dry-run"):
        conda_site.build("venv-forest")
    assert not conda_site.store.generations("venv-forest")
    assert conda_site.stores.observe(conda_site.stores.find("venv-forest")[1]).state is State.FAILED


def test_a_build_gets_no_token() -> None:
    """Of a server's environment only what a build needs is left: no token of the hub, the cloud or the user."""
    needed = {
        "PATH": "/bin", "HOME": "/root", "https_proxy": "http://proxy", "LANG": "C",
        "PIP_INDEX_URL": "https://x/simple", "UV_CACHE_DIR": "/c", "SSL_CERT_FILE": "/ca",
    }  # fmt: skip
    secret = {
        "JUPYTERHUB_API_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "t", "GITHUB_TOKEN": "t", "SSH_AUTH_SOCK": "/s",
        "UV_PUBLISH_TOKEN": "t", "PIP_PASSWORD": "t", "EARTHENGINE_TOKEN": "t", "GOOGLE_APPLICATION_CREDENTIALS": "/k",
        "UV_INDEX_PRIVATE_PASSWORD": "t", "KUBECONFIG": "/k", "LD_PRELOAD": "/evil.so", "BASH_ENV": "/evil",
    }  # fmt: skip
    left = build_environment({**needed, **secret})
    assert {name: left[name] for name in needed} == needed and not set(left) & set(secret)
    more = build_environment({**needed, **secret}, ["UV_INDEX_PRIVATE_PASSWORD", "AWS_*"])
    assert set(more) & set(secret) == {"UV_INDEX_PRIVATE_PASSWORD"}, "a pattern never lets a secret in by chance"


SPY = "import json, os\njson.dump({{'env': dict(os.environ), 'nice': os.nice(0)}}, open({path!r}, 'w'))\n"


def test_a_packages_build_script_runs_with_little(
    conda_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setup.py run by a build sees no token, lower priority, and the limits that are set."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the-token")
    monkeypatch.setenv("SPY_ALLOWED", "yes")
    spied = tmp_path / "spied.json"
    limits = "import resource\njson.dump(resource.getrlimit(resource.RLIMIT_AS), open({!r}, 'w'))\n"
    setup = SPY.format(path=str(spied)) + limits.format(str(tmp_path / "limits.json"))
    setup += "from setuptools import setup\nsetup(name='spy', version='1', py_modules=[])\n"
    conda_site.options |= {"build_memory": 8_000_000_000, "build_niceness": 7, "build_variables": ["SPY_*"]}
    conda_site.add("spy", {"requirements.txt": "./spy\n", "spy/setup.py": setup})
    conda_site.sync()
    before = os.nice(0)
    conda_site.build("venv-spy")
    seen = json.loads(spied.read_text())
    assert "the-token" not in json.dumps(seen["env"]) and seen["env"]["SPY_ALLOWED"] == "yes"
    assert seen["nice"] == max(before, 7)
    assert json.loads((tmp_path / "limits.json").read_text())[0] == 8_000_000_000


def test_the_audit_file_holds_whole_lines(tmp_path: Path) -> None:
    """Lines that many processes write at once never mix, and one that was cut off costs itself only."""
    code = "import sys\nfrom pathlib import Path\nfrom sepal_provisioner import audit\n"
    code += "for n in range(50): audit.note(Path(sys.argv[1]), 'build', 'ok', kernel='venv-x' * 50, number=n)\n"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    with (tmp_path / audit.NAME).open("ab") as stream:
        stream.write(b'{"action": "bui')
    assert len(list(audit.lines(tmp_path))) == 200
    audit.note(tmp_path / "missing", "build", "ok")
    assert not (tmp_path / "missing").exists()
