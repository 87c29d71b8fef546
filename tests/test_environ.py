"""The launch environment: computed from a prefix and what is inherited, with a reason for each change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepal_provisioner.environ import POLICY, Facts, build_environment, decide, launch_environment, look

PREFIX = "/store/environments/venv-geo/0123456789abcdef-1"
HOST = {
    "HOME": "/home/user",
    "LANG": "C.UTF-8",
    "PATH": "/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin",
}
"""What a server's process would hand on, without anything that the policy knows."""


def facts(**changes: Any) -> Facts:
    """A conda prefix that holds no data of its own, with changes."""
    return Facts(prefix=PREFIX, **changes)


DATA = frozenset({"share/proj", "share/gdal"})
RULES: dict[str, tuple[str, Facts, str | None, str | None]] = {
    # what it is: (variable, facts, inherited value, value at launch)
    "PROJ_LIB, foreign, wheels": ("PROJ_LIB", facts(), "/usr/share/proj", None),
    "PROJ_LIB, foreign, own data": ("PROJ_LIB", facts(data=DATA), "/usr/share/proj", f"{PREFIX}/share/proj"),
    "PROJ_LIB, absent, own data": ("PROJ_LIB", facts(data=DATA), None, f"{PREFIX}/share/proj"),
    "PROJ_LIB, absent, no data": ("PROJ_LIB", facts(), None, None),
    "PROJ_LIB, inside": ("PROJ_LIB", facts(), f"{PREFIX}/lib/proj", f"{PREFIX}/lib/proj"),
    "PROJ_LIB, outside by way of dots": ("PROJ_LIB", facts(), f"{PREFIX}/../{'x' * 3}", None),
    "PROJ_LIB, a neighbour with a longer name": ("PROJ_LIB", facts(), f"{PREFIX}0/share/proj", None),
    "PROJ_LIB, relative": ("PROJ_LIB", facts(), "share/proj", None),
    "PROJ_LIB, one of two outside": ("PROJ_LIB", facts(), f"{PREFIX}/share/proj:/usr/share/proj", None),
    "PROJ_LIB, only GDAL's data": ("PROJ_LIB", facts(data=frozenset({"share/gdal"})), "/usr/share/proj", None),
    "PROJ_DATA, foreign": ("PROJ_DATA", facts(), "/usr/share/proj", None),
    "PROJ_DATA, own data": ("PROJ_DATA", facts(data=DATA), None, f"{PREFIX}/share/proj"),
    "GDAL_DATA, foreign": ("GDAL_DATA", facts(), "/usr/share/gdal", None),
    "GDAL_DATA, own data": ("GDAL_DATA", facts(data=DATA), "/usr/share/gdal", f"{PREFIX}/share/gdal"),
    "GDAL_DRIVER_PATH, foreign": ("GDAL_DRIVER_PATH", facts(), "/usr/lib/gdalplugins", None),
    "GDAL_DRIVER_PATH, inside": ("GDAL_DRIVER_PATH", facts(), f"{PREFIX}/lib/gdal", f"{PREFIX}/lib/gdal"),
    "LD_LIBRARY_PATH, harmless": ("LD_LIBRARY_PATH", facts(), "/a:/b", "/a:/b"),
    "LD_LIBRARY_PATH, one shadows": ("LD_LIBRARY_PATH", facts(shadowed=frozenset({"/a"})), "/a:/b:/a", "/b"),
    "LD_LIBRARY_PATH, all shadow": ("LD_LIBRARY_PATH", facts(shadowed=frozenset({"/a", "/b"})), "/a:/b", None),
    "PYTHONHOME": ("PYTHONHOME", facts(), "/usr", None),
    "PYTHONPATH": ("PYTHONPATH", facts(), "/usr/lib/grass/python", None),
    "PYTHONPATH, even inside": ("PYTHONPATH", facts(), f"{PREFIX}/lib", None),
    "PYTHONEXECUTABLE": ("PYTHONEXECUTABLE", facts(), "/usr/bin/python", None),
    "VIRTUAL_ENV": ("VIRTUAL_ENV", facts(), "/opt/jupyter", None),
    "VIRTUAL_ENV of a virtual environment": ("VIRTUAL_ENV", facts(conda=False), "/opt/jupyter", PREFIX),
    "VIRTUAL_ENV_PROMPT": ("VIRTUAL_ENV_PROMPT", facts(), "jupyter", None),
    "CONDA_PREFIX": ("CONDA_PREFIX", facts(), "/opt/conda", PREFIX),
    "CONDA_PREFIX of a virtual environment": ("CONDA_PREFIX", facts(conda=False), "/opt/conda", None),
    "CONDA_DEFAULT_ENV": ("CONDA_DEFAULT_ENV", facts(), "base", None),
    "CONDA_PROMPT_MODIFIER": ("CONDA_PROMPT_MODIFIER", facts(), "(base) ", None),
    "CONDA_SHLVL": ("CONDA_SHLVL", facts(), "1", None),
    "PYTHONNOUSERSITE": ("PYTHONNOUSERSITE", facts(), "", "1"),
    "HOME is nobody's business": ("HOME", facts(), "/home/other", "/home/other"),
}


@pytest.mark.parametrize("case", RULES)
def test_each_rule(case: str) -> None:
    """A variable has the value at launch that its rule says, and all others are as in a launch without it."""
    variable, known, inherited, expected = RULES[case]
    base = {**HOST, **({} if inherited is None else {variable: inherited})}
    env = launch_environment(known, base)
    assert env.get(variable) == expected
    without = launch_environment(known, HOST)
    assert {k: v for k, v in env.items() if k != variable} == {k: v for k, v in without.items() if k != variable}


def test_the_table_of_rules_is_tested_whole() -> None:
    """No rule of the policy goes without a case of its own, and each says why it is there."""
    assert {rule.variable for rule in POLICY} <= {variable for variable, *_ in RULES.values()}
    assert all(rule.reason for rule in POLICY)


def test_the_base_is_never_changed() -> None:
    """The result is a new dict and what came in is as it was, nothing of this process included."""
    base = {**HOST, "PYTHONPATH": "/x", "LD_LIBRARY_PATH": "/a", "PROJ_LIB": "/usr/share/proj"}
    before, process = dict(base), dict(os.environ)
    env = launch_environment(facts(data=DATA, shadowed=frozenset({"/a"}), variables={"A": "b"}), base)
    assert env is not base
    assert base == before
    assert dict(os.environ) == process


def test_the_prefix_comes_first_on_path_and_once() -> None:
    """The prefix's programs come first, then what activation put there, then the rest in its order."""
    base = {"PATH": f"/usr/bin:{PREFIX}/extra/bin::{PREFIX}/bin:/bin"}
    env = launch_environment(facts(path=(f"{PREFIX}/extra/bin",)), base)
    assert env["PATH"] == f"{PREFIX}/bin:{PREFIX}/extra/bin:/usr/bin:/bin"


def test_without_a_path_the_systems_own_follows() -> None:
    """Where no PATH is inherited, the system's default comes after the prefix's programs."""
    assert launch_environment(facts(), {})["PATH"] == f"{PREFIX}/bin:{os.defpath}"


def test_launching_twice_is_launching_once() -> None:
    """A launch from a launch's own environment, as a restart within a kernel would be, changes nothing more."""
    known = facts(data=DATA, path=(f"{PREFIX}/extra",), variables={"A": "b"}, activation={"C": "d"})
    once = launch_environment(known, {**HOST, "PYTHONPATH": "/x", "PROJ_LIB": "/usr/share/proj"})
    assert launch_environment(known, once) == once


def test_variables_of_the_environment_file_are_data() -> None:
    """Nothing in a variable is expanded or run, and it wins over policy and activation."""
    said = {
        "GREETING": "$(touch /tmp/never) `id` ${HOME} ~ %PATH%",
        "EMPTY": "",
        "LINES": "a\nb",
        "PYTHONPATH": "/chosen",
        "MODE": "file",
    }
    env = launch_environment(facts(variables=said, activation={"MODE": "activation"}), {**HOST, "PYTHONPATH": "/x"})
    assert {name: env[name] for name in said} == said


def test_what_activation_set_is_applied() -> None:
    """Recorded activation is set as recorded, and wins over the policy."""
    env = launch_environment(
        facts(data=DATA, activation={"GDAL_DATA": f"{PREFIX}/share/gdal-3", "CPL_ZIP_ENCODING": "UTF-8"}), HOST
    )
    assert env["GDAL_DATA"] == f"{PREFIX}/share/gdal-3"
    assert env["CPL_ZIP_ENCODING"] == "UTF-8"


@pytest.mark.parametrize("variable", [rule.variable for rule in POLICY])
def test_an_exception_keeps_what_is_inherited(variable: str) -> None:
    """A variable that the administrator keeps has its inherited value, whatever policy, activation and file say."""
    known = facts(
        data=DATA, shadowed=frozenset({"/inherited"}), activation={variable: "activation"}, variables={variable: "file"}
    )
    assert launch_environment(known, {**HOST, variable: "/inherited"}, [variable])[variable] == "/inherited"
    assert variable not in launch_environment(known, HOST, [variable])
    assert launch_environment(known, {**HOST, variable: "/inherited"}, ["OTHER"])[variable] == "file"


def test_an_exception_for_path_and_user_site() -> None:
    """PATH and PYTHONNOUSERSITE can be kept like any other."""
    env = launch_environment(facts(), {**HOST, "PYTHONNOUSERSITE": ""}, ["PATH", "PYTHONNOUSERSITE"])
    assert env["PATH"] == HOST["PATH"]
    assert env["PYTHONNOUSERSITE"] == ""


names = st.sampled_from([*[rule.variable for rule in POLICY], "PATH", "PYTHONNOUSERSITE", "HOME", "A", "B"])
values = st.lists(
    st.sampled_from(["/usr/lib", "/a", PREFIX, f"{PREFIX}/share/proj", f"{PREFIX}/../x", "", ".", "é", "$A"]),
    max_size=4,
).map(":".join)
variables = st.dictionaries(names, values, max_size=8)


@given(
    base=variables,
    known=st.builds(
        facts,
        conda=st.booleans(),
        activation=variables,
        variables=variables,
        path=st.lists(st.sampled_from(["/a", f"{PREFIX}/x"]), unique=True).map(tuple),
        data=st.frozensets(st.sampled_from(sorted(DATA))),
        shadowed=st.frozensets(st.sampled_from(["/a", "/usr/lib"])),
    ),
    keep=st.lists(names),
)
def test_every_change_has_a_decision_with_a_reason(base: dict[str, str], known: Facts, keep: list[str]) -> None:
    """Whatever is inherited and known: each difference is the last decision on it, and each decision says why."""
    decisions = decide(known, base, keep)
    assert all(decision.reason for decision in decisions)
    last = {decision.variable: decision.value for decision in decisions}
    env = launch_environment(known, base, keep)
    for name in base.keys() | env.keys() | last.keys():
        assert env.get(name) == last.get(name, base.get(name))
    assert not last.keys() & set(keep)


# ---------------------------------------------------------------------------------------------------------- look


def touch(*paths: Path) -> None:
    """Empty files, with their folders."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_look_finds_the_data_that_a_prefix_really_holds(tmp_path: Path) -> None:
    """PROJ's data counts by its database and GDAL's by any file; an empty or missing folder is none."""
    (tmp_path / "share/proj").mkdir(parents=True)
    (tmp_path / "share/gdal").mkdir()
    assert look(tmp_path, {}, Facts("")).data == frozenset()
    touch(tmp_path / "share/proj/README", tmp_path / "share/gdal/gdalvrt.xsd")
    assert look(tmp_path, {}, Facts("")).data == {"share/gdal"}
    touch(tmp_path / "share/proj/proj.db")
    assert look(tmp_path, {}, Facts("")).data == DATA


def test_look_finds_the_folders_that_shadow_the_prefixs_libraries(tmp_path: Path) -> None:
    """A folder outside the prefix shadows when it holds a library that the prefix has too, whatever its version."""
    prefix = tmp_path / "prefix"
    same, other, empty = (tmp_path / name for name in ("same", "other", "empty"))
    touch(prefix / "lib/libgdal.so", prefix / "lib/libgdal.so.34", prefix / "lib/libz.a")
    touch(same / "libgdal.so.20", other / "libgrass.so", other / "libgdal.txt", other / "libgdalx.so")
    empty.mkdir()
    base = {"LD_LIBRARY_PATH": f"{other}::{same}:{empty}:{prefix / 'lib'}:{tmp_path / 'missing'}"}
    found = look(prefix, base, Facts(""))
    assert found.shadowed == {str(same)}
    env = launch_environment(found, base)
    assert env["LD_LIBRARY_PATH"] == f"{other}:{empty}:{prefix / 'lib'}:{tmp_path / 'missing'}"


def test_look_keeps_what_was_recorded(tmp_path: Path) -> None:
    """What the marker recorded is handed on, with the prefix as it is called now."""
    known = Facts("/old", conda=False, activation={"A": "b"}, variables={"C": "d"}, path=("/x",))
    found = look(tmp_path, {}, known)
    assert (found.prefix, found.conda, found.path) == (str(tmp_path), False, ("/x",))
    assert (found.activation, found.variables) == ({"A": "b"}, {"C": "d"})


def test_the_platforms_variables_with_a_prefix_of_wheels(tmp_path: Path) -> None:
    """What the platform exports to everybody is gone in a kernel whose wheels bring their own data."""
    (tmp_path / "lib").mkdir()
    base = {
        **HOST,
        "PROJ_LIB": "/usr/share/proj",
        "PYTHONPATH": "/usr/lib/grass78/etc/python",
        "LD_LIBRARY_PATH": "/usr/lib/grass78/lib",
    }
    env = launch_environment(look(tmp_path, base, Facts("", conda=False)), base)
    assert "PROJ_LIB" not in env
    assert "PYTHONPATH" not in env
    assert env["VIRTUAL_ENV"] == str(tmp_path)
    assert "CONDA_PREFIX" not in env


# --------------------------------------------------------------------------------------------------------- build


def test_a_build_inherits_no_other_environment() -> None:
    """A build's commands see what is inherited but nothing that the policy knows, and a fixed locale."""
    base = {**HOST, **{rule.variable: "/x" for rule in POLICY}, "LC_ALL": "de_DE", "MAMBA_EXE": "/usr/bin/micromamba"}
    before = dict(base)
    env = build_environment(base)
    assert base == before
    assert not env.keys() & {rule.variable for rule in POLICY}
    assert {name: env[name] for name in (*HOST, "MAMBA_EXE")} == {**HOST, "MAMBA_EXE": "/usr/bin/micromamba"}
    assert env["PYTHONNOUSERSITE"] == env["PYTHONDONTWRITEBYTECODE"] == "1"
    assert env["LC_ALL"] == "C.UTF-8"
