"""The community's own suite for kernels, `jupyter_kernel_test`, through the relay and against ipykernel as it is.

Both run in one prefix. The first is started while there is no such prefix, by a kernel spec that `jupyter sepal
install` wrote: everything the suite asks and hears afterwards goes through the waiting kernel that became a relay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import jupyter_kernel_test
import pytest
from conftest import Site, mirrors
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from stage import children, gone

NAME = "venv-suite"
BUILD_SECONDS = 300


class Suite(jupyter_kernel_test.KernelTests):
    """Samples for every test of the suite, so that none is skipped."""

    __test__ = False
    kernel_name = NAME
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples: ClassVar[list[dict[str, Any]]] = [{"text": "zi", "matches": {"zip"}}]
    complete_code_samples: ClassVar[list[str]] = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples: ClassVar[list[str]] = ["print('''hello", "def f(x):\n  x*2"]
    invalid_code_samples: ClassVar[list[str]] = ["import = 7q"]
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result: ClassVar[list[dict[str, str]]] = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data: ClassVar[list[dict[str, str]]] = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")  # for `range` ipykernel says 0 where the suite wants the session
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    site: ClassVar[Site]

    @classmethod
    def start(cls, specs: Path) -> None:
        """Start the kernel of a folder of kernel specs, and run a cell: the suite's own requests wait for 15 s."""
        work = Path(tempfile.mkdtemp(dir=cls.site.root))
        cls.km = KernelManager(
            kernel_name=cls.kernel_name,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)]),
            connection_file=str(work / "connection.json"),
        )
        with (work / "output").open("wb") as output:
            cls.km.start_kernel(env={**os.environ, "IPYTHONDIR": str(work)}, stdout=output, stderr=output)
        cls.kc = cls.km.client()
        cls.kc.start_channels()
        cls.kc.wait_for_ready(timeout=60)
        reply = cls.kc.execute("6 * 7", reply=True, timeout=BUILD_SECONDS, store_history=False)
        assert reply["content"]["status"] == "ok", reply["content"]


@pytest.fixture(scope="module", autouse=True)
def _site(tmp_path_factory: pytest.TempPathFactory, channel: Path) -> None:
    """A site with one kernel that is not built, and its kernel spec on disk."""
    site = Suite.site = Site(tmp_path_factory.mktemp("suite") / "site", mirrors(channel))
    site.add("suite", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python]\n"})
    site.sync()
    install = [sys.executable, "-m", "jupyter", "sepal", "install", NAME, f"--prefix={site.root}"]
    subprocess.run([*install, f"--config={site.config()}"], check=True, capture_output=True)


class TestRelayed(Suite):
    """Every test of the suite, through the relay of a kernel that waited for its environment."""

    __test__ = True

    @classmethod
    def setUpClass(cls) -> None:
        assert not cls.site.store.generations(NAME)
        cls.start(cls.site.root / "share" / "jupyter" / "kernels")

    def test_it_is_the_relay(self) -> None:
        """What runs is our launcher, which became the waiting kernel, with the real one as its child."""
        process = self.km.provisioner.process  # type: ignore[union-attr]
        assert "sepal_provisioner.launcher" in Path(f"/proc/{process.pid}/cmdline").read_text()
        (child,) = [child for child in children(process.pid) if not gone(child)]  # the builder may not be reaped yet
        assert "ipykernel_launcher" in Path(f"/proc/{child}/cmdline").read_text()


class TestStock(Suite):
    """The same tests, against ipykernel of the same prefix as a plain kernel.json starts it: the same results."""

    __test__ = True

    @classmethod
    def setUpClass(cls) -> None:
        generation = cls.site.build(NAME)  # the class before did it already
        argv = [generation.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        folder = cls.site.root / "stock" / NAME
        folder.mkdir(parents=True)
        spec = {"argv": argv, "display_name": "stock", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        cls.start(folder.parent)
