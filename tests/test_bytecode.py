"""Byte-compiling a prefix, as the prefix's own Python does it."""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sepal_provisioner import bytecode


def compile_tree(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as a build does."""
    cache = folder.parent / f"{folder.name}-cache"
    command = [sys.executable, "-I", "-S", bytecode.__file__, str(folder), str(cache)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cached(module: Path) -> Path:
    """Where a module's bytecode is."""
    return module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"


def test_every_module_gets_bytecode_that_python_takes(tmp_path: Path) -> None:
    """Several processes share the work, say how far they are, and Python then finds nothing left to compile."""
    for number in range(300):
        folder = tmp_path / f"package{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"module{number}.py").write_text(f"answer = {number}\n")
    done = compile_tree(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "to compile 300"
    assert sum(int(count) for count in re.findall(r"^compiled (\d+)$", done.stdout, re.MULTILINE)) == 300
    loads = "import sys; sys.path.insert(0, sys.argv[1]); import module5; print(module5.answer)"
    verbose = [sys.executable, "-I", "-v", "-c", loads, str(tmp_path / "package5")]
    seen = subprocess.run(verbose, capture_output=True, text=True, check=True)
    assert seen.stdout == "5\n"
    assert f"{cached(tmp_path / 'package5' / 'module5.py')} matches" in seen.stderr


def test_only_what_lacks_it_is_compiled(tmp_path: Path) -> None:
    """Bytecode that came with a package stays; what is older than its module, cut off or another Python's does not."""
    names = ("fresh", "hashed", "stale", "cut", "foreign")
    modules = {name: tmp_path / f"{name}.py" for name in names}
    for name, module in modules.items():
        module.write_text("x = 1\n")
        hashed = py_compile.PycInvalidationMode.UNCHECKED_HASH if name == "hashed" else None
        py_compile.compile(str(module), invalidation_mode=hashed)
    modules["stale"].write_text("x = 22\n")
    cached(modules["cut"]).write_bytes(cached(modules["cut"]).read_bytes()[:9])
    cached(modules["foreign"]).write_bytes(b"\0\0\r\n" + cached(modules["foreign"]).read_bytes()[4:])
    assert {Path(path).stem for _, path in bytecode.lacking(str(tmp_path))} == {"stale", "cut", "foreign"}
    assert compile_tree(tmp_path).stdout == "to compile 3\ncompiled 3\n"
    assert not bytecode.lacking(str(tmp_path))


def test_what_does_not_compile_costs_nothing(tmp_path: Path) -> None:
    """Templates, Python 2, null bytes and links to nowhere are passed over, and tests are not looked at."""
    (tmp_path / "two.py").write_text("print 'hello'\n")
    (tmp_path / "null.py").write_bytes(b"x = '\0'\n")
    (tmp_path / "deep.py").write_text("(" * 5000)
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("x = 1\n")
    done = compile_tree(tmp_path)
    assert (done.returncode, done.stdout) == (0, "to compile 4\ncompiled 4\n")
    assert cached(tmp_path / "good.py").exists()
    assert not (tmp_path / "tests" / "__pycache__").exists()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """No space left ends the work with the file's name and a code that fails the build."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root and mount, for a small file system of its own")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=False).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        for number in range(12):
            (small / f"module{number}.py").write_text("x = 1\n" * 300)
        (small / "rest").write_bytes(b"x" * 8192)
        done = compile_tree(small)
    finally:
        subprocess.run(["umount", small], check=True)
    assert done.returncode == 1
    assert re.search(r"module\d+\.py: No space left on device", done.stderr)


def test_prefixes_share_what_was_compiled(tmp_path: Path) -> None:
    """The same module in another prefix gets a link to the bytecode of the first, and Python runs it under its own
    path; the same content of another time is compiled anew."""
    source = "import sys\ndef where():\n    return sys._getframe().f_code.co_filename\nprint(where())\n"
    cache = tmp_path / "cache"
    for name, moment in (("one", 1_000_000_000), ("two", 1_000_000_000), ("three", 1_100_000_000)):
        module = tmp_path / name / "module.py"
        module.parent.mkdir()
        module.write_text(source)
        os.utime(module, (moment, moment))
        command = [sys.executable, "-I", "-S", bytecode.__file__, str(module.parent), str(cache)]
        subprocess.run(command, check=True, capture_output=True)
        loads = [
            sys.executable,
            "-I",
            "-v",
            "-c",
            f"import sys; sys.path.insert(0, {str(module.parent)!r}); import module",
        ]
        seen = subprocess.run(loads, capture_output=True, text=True, check=True)
        assert seen.stdout == f"{module}\n" and f"{cached(module)} matches" in seen.stderr
    inodes = [cached(tmp_path / name / "module.py").stat().st_ino for name in ("one", "two", "three")]
    assert inodes[0] == inodes[1] != inodes[2]
    assert len(list(cache.rglob("*.pyc"))) == 2
