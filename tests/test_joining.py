"""However many launch a kernel that nobody has built, there is one build, and everybody gets a result."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from conftest import Site
from server import JupyterServer, Kernel

SERVERS, EACH = 4, 5


def test_twenty_launches_from_four_servers_are_one_build(conda_site: Site) -> None:
    """Four Jupyter servers with one store start five kernels each: one prefix is built, once, and twenty cells name
    it."""
    conda_site.add("shared", {"sepal_environment.yml": "channels: [conda-forge]\ndependencies: [python]\n"})
    conda_site.sync()
    config = conda_site.config()
    with ExitStack() as stack:
        with ThreadPoolExecutor(SERVERS) as pool:
            servers = list(pool.map(lambda _: stack.enter_context(JupyterServer(config)), range(SERVERS)))
        with ThreadPoolExecutor(SERVERS * EACH) as pool:
            kernels: list[Kernel] = list(
                pool.map(lambda server: stack.enter_context(server.kernel("venv-shared")), servers * EACH)
            )
            replies = list(pool.map(lambda kernel: kernel.run("import sys; print(sys.prefix)"), kernels))
    (generation,) = conda_site.store.generations("venv-shared")
    assert [(reply.text, reply.error) for reply in replies] == [(f"{generation.path}\n", "")] * SERVERS * EACH
    assert generation.number == 1
    log = (generation.path / ".sepal" / "build.log").read_text()
    assert log.count("# engine: ") == 1
