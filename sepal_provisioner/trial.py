"""A kernel from somebody's working tree, for that person only: built as any other, in a store of its own.

    <store>/try/<user>/        a store like any other: its index names what is tried, its `apps` are links to the trees
    <Jupyter's data folder>/kernels/test-<name>/    the kernel spec, whose launcher knows that store only

The catalog's store, its index and its kernels are not touched: `venv-<name>` and `test-<name>` never meet.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from . import locks
from .builds import Build, request_build
from .catalog import repository_name
from .envfile import find_environment_file, fingerprint_of, read_environment_file
from .errors import BusyError, EnvironmentFileError, SettingsError, StoreError
from .files import make_folder, remove_tree, store_error, write_atomic, write_json
from .generation import Generation
from .git import look_at_tree
from .index import Kernel
from .kernelspec import RESOURCES, installed_spec
from .launcher import write_launch_file
from .logos import copy_logos
from .policy import check_file
from .prune import remove_prefix
from .settings import Sepal
from .store import Store, Stores, make_store
from .trialstore import link_tree, name_kernel, own_settings, read_index_of, share_packages

LAUNCH_FILE = "sepal.json"


@dataclass(frozen=True)
class Trial:
    """A working tree that is tried: its kernel in the store of trials, and the name that JupyterLab knows."""

    tree: Path
    kernel: Kernel
    settings: Sepal

    @property
    def name(self) -> str:
        """The kernel spec's name."""
        return f"test-{self.kernel.name.removeprefix('venv-')}"

    @property
    def display_name(self) -> str:
        """What JupyterLab's launcher shows."""
        return f"(test) {self.kernel.label}"

    @property
    def store(self) -> Store:
        """The store of this user's trials."""
        return Store(Path(self.settings.store))

    @property
    def spec_folder(self) -> Path:
        """Where its kernel spec is, for this user."""
        return Path(jupyter_data_dir()) / "kernels" / self.name


def trial_of(path: Path, settings: Sepal) -> Trial:
    """The trial of a working tree, or of one that is gone, by its name. Changes nothing. Raises SettingsError."""
    tree = Path(os.path.abspath(path.expanduser()))
    known = look_at_tree(tree, timeout=settings.git_timeout) if tree.is_dir() else None
    whole = known is not None and known.root is not None and known.root.resolve() == tree.resolve()
    name = repository_name(known.origin) if known and whole and known.origin else tree.name
    name = name if known else name.removeprefix("test-")
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z", name):
        raise SettingsError(f"{name!r} can't be a kernel's name. Rename the folder: letters, digits, `.`, `_` and `-`.")
    kernel = Kernel(
        name=f"venv-{name.lower()}",
        app=name,
        label=name,
        repository=known.origin if known and whole else "",
        checkout=name.lower(),
        commit="",
        environment_file="",
        fingerprint="",
    )
    return Trial(tree, kernel, own_settings(settings))


def register(trial: Trial) -> Trial:
    """Read the tree's environment file as it is now, and let the store of trials name it.

    Raises SettingsError, EnvironmentFileError, PolicyError and StoreError.
    """
    if not trial.tree.is_dir():
        raise SettingsError(f"There is no folder {trial.tree}. Name a repository's folder: jupyter sepal try .")
    if (trial.spec_folder / "kernel.json").exists() and not (trial.spec_folder / LAUNCH_FILE).exists():
        raise SettingsError(f"{trial.spec_folder} is a kernel of somebody else's making. Remove or rename it first.")
    path = find_environment_file(trial.tree)
    if path is None:
        raise EnvironmentFileError(f"{trial.tree} holds neither sepal_environment.yml nor requirements.txt.")
    file = read_environment_file(trial.tree, path)
    check_file(file, trial.tree, trial.settings)
    store = make_store(trial.settings)
    share_packages(store)
    kernel = replace(trial.kernel, environment_file=path, fingerprint=fingerprint_of(file, trial.settings))
    with contextlib.suppress(StoreError):  # a trial works without its logo
        if copy_logos(trial.tree, store.resources / kernel.name):
            kernel = replace(kernel, resources=kernel.name)
    found = replace(trial, kernel=kernel)
    name_kernel(store, kernel.name, kernel)
    link_tree(trial.tree, store.apps / kernel.checkout)
    return found


def build(trial: Trial, *, force: bool = False) -> Build | Generation:
    """Ask for its environment, built by the same process as any other kernel's. Raises what that raises."""
    return request_build(Stores.of(str(trial.store.root)), trial.kernel.name, trial.settings, force=force)


def install(trial: Trial) -> Path:
    """Write the kernel spec, for this user; returns its folder. Raises StoreError."""
    folder, kernel = trial.spec_folder, trial.kernel
    launch_file = folder / LAUNCH_FILE
    logos = trial.store.resources / kernel.resources if kernel.resources else RESOURCES
    try:
        make_folder(folder)
        for logo in logos.glob("logo-*"):
            write_atomic(folder / logo.name, logo.read_bytes())
    except OSError as error:
        raise store_error(error, folder) from error
    write_launch_file(launch_file, kernel.name, trial.display_name, trial.settings)
    spec = installed_spec(kernel, launch_file)
    write_json(folder / "kernel.json", {**spec, "display_name": trial.display_name})
    return folder


def remove_older(trial: Trial, current: Generation) -> list[str]:
    """Remove the environments that this one replaces; returns why any stays (a kernel runs from it)."""
    older = [generation for generation in trial.store.generations(trial.kernel.name) if generation != current]
    return _remove_prefixes(trial, older)


def remove(trial: Trial) -> bool:
    """Take away the kernel spec, the environment, and what else was made; whether there was anything.

    Raises BusyError while a kernel runs from it or it is being built, and StoreError.
    """
    store, name, folder = trial.store, trial.kernel.name, trial.store.folder(trial.kernel.name)
    ours = (trial.spec_folder / LAUNCH_FILE).exists()
    known = read_index_of(store).get(name) is not None
    if not ours and not known and not folder.exists():
        return False
    for path in folder.glob("*.lock"):
        if locks.held(path):
            raise BusyError(f"{trial.name} is being built: {locks.holder(path)}. Wait for it, or stop that process.")
    # First what is shown: nobody starts what is going away.
    if ours:
        remove_tree(trial.spec_folder)
    if stays := _remove_prefixes(trial, store.generations(name)):
        raise BusyError(f"{stays[0]} Shut that kernel down, then `jupyter sepal try --remove` again.")
    if known:
        name_kernel(store, name, None)
    for path in (folder, store.resources / name):
        remove_tree(path)
    with contextlib.suppress(FileNotFoundError):
        (store.apps / trial.kernel.checkout).unlink()
    if not read_index_of(store).kernels:  # the last one: nothing else is in this store
        remove_tree(store.root)
        with contextlib.suppress(OSError):
            store.root.parent.rmdir()
    return True


def _remove_prefixes(trial: Trial, generations: list[Generation]) -> list[str]:
    """Remove prefixes that nobody uses; why each of the others stays."""
    stays = []
    for generation in generations:
        try:
            if generation.marker.exists():
                remove_prefix(trial.store, generation)
            else:
                shutil.rmtree(generation.path, ignore_errors=True)
        except BusyError:
            stays.append(f"A kernel runs from {generation.path}, so it stays for now.")
        except OSError as error:
            raise store_error(error, generation.path) from error
    return stays
