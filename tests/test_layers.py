"""The shape of the package: imports point one way, and only one module starts processes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import sepal_provisioner

PACKAGE = Path(sepal_provisioner.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """A module's name in the table of layers: its own, or that of its subpackage."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layers() -> dict[str, int]:
    """The table of CONTRIBUTING.md: which module is in which layer."""
    found = {}
    for number, names in re.findall(r"^\| (\d) \| ([^|]+) \|", CONTRIBUTING.read_text(), re.MULTILINE):
        for name in re.findall(r"`(\w+)/?`", names):
            found[name] = int(number)
    return found


def imported(path: Path) -> set[str]:
    """The units of our own package that a module imports, at its top or inside a function."""
    found: set[str] = set()
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        inside = depth - node.level  # 0: the package itself
        if inside > 0:
            found.add(unit(path))
        elif node.module:
            found.add(node.module.split(".")[0])
        else:
            found |= {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
            found |= {alias.name for alias in node.names if (PACKAGE / alias.name).is_dir()}
    return found - {unit(path)}


def test_every_module_has_a_layer() -> None:
    """The table names each module once, and no module that is gone."""
    assert set(layers()) == {unit(path) for path in modules()} - {"__init__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    """A module imports from its own layer or from those above it in the table."""
    if path == PACKAGE / "__init__.py":
        return
    table = layers()
    wrong = [name for name in imported(path) if table[name] > table[unit(path)]]
    assert not wrong, f"{unit(path)} (layer {table[unit(path)]}) imports {wrong}"


def test_there_are_no_cycles() -> None:
    """Inside a layer, too, imports form no circle."""
    graph: dict[str, set[str]] = {}
    for path in modules():
        if path != PACKAGE / "__init__.py":
            graph.setdefault(unit(path), set()).update(imported(path))
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_one_module_starts_processes() -> None:
    """Nothing but `process` starts one; `bytecode` is a script for other interpreters, and shares its own work out."""
    for path in modules():
        if path.name in ("process.py", "bytecode.py"):
            continue
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) (subprocess|multiprocessing)\b", text, re.MULTILINE), path
        assert not re.search(r"os\.(system|fork|exec\w*|spawn\w*|popen|posix_spawn)\(", text), path


def test_os_environ_is_never_changed() -> None:
    """Environments are new dicts; a server's own stays as it is."""
    for path in modules():
        assert not re.search(r"os\.environ\[[^]]*\]\s*=|os\.environ\.(update|pop|setdefault)|putenv", path.read_text())


def test_importing_the_package_loads_nothing_heavy() -> None:
    """The launcher stands between a person and a kernel: neither the server nor an engine is imported for it."""
    import subprocess
    import sys

    code = (
        "import sys, sepal_provisioner.launcher; heavy = [m for m in sys.modules if m.split('.')[0] in "
        "('rattler', 'jupyter_server', 'rich', 'uv', 'IPython', 'zmq', 'tornado')]; assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
