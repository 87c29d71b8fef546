"""The documentation is complete: what can be set, asked for or go wrong is written down, and examples are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sepal_provisioner
from sepal_provisioner import errors
from sepal_provisioner.commands.app import VERBS, SepalApp
from sepal_provisioner.errors import SepalError, every_error
from sepal_provisioner.settings import Sepal

ROOT = Path(sepal_provisioner.__file__).parents[1]


def text(name: str) -> str:
    """A document of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_setting_is_documented_with_its_default() -> None:
    """docs/settings.md has a row for each trait, with the default that it has; each has a help text."""
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text("docs/settings.md"), re.MULTILINE))
    traits = Sepal.class_own_traits(config=True)
    assert set(rows) == set(traits)
    for name, trait in traits.items():
        assert trait.help.strip(), name
        if name == "store":
            continue
        default = trait.default() if callable(trait.default) else trait.default_value
        shown = rows[name].strip("` ")
        assert shown.replace('"', "'") == repr(default) or float(shown) == default, (name, shown, default)


def test_every_error_code_is_documented_with_its_exit_code() -> None:
    """docs/errors.md has a row for each code, and the page of errors draws each class."""
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \|", text("docs/errors.md"), re.MULTILINE)
    assert {code: int(number) for code, number in rows} == {
        code: error.exit_code for code, error in every_error().items()
    }
    drawn = errors.__doc__ or ""
    for code, error in every_error().items():
        if error is not SepalError:
            assert re.search(rf"{error.__name__}\s+{code}\b", drawn), code


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.verb)
def test_every_verb_is_documented_and_teaches_itself(verb: type) -> None:
    """docs/commands.md and the README name it; its help has a description and two examples; every option a help."""
    assert f"`jupyter sepal {verb.verb}" in text("docs/commands.md")
    assert f"jupyter sepal {verb.verb}" in text("README.md")
    examples = [line for line in verb.examples.splitlines() if line.startswith("jupyter sepal ")]
    assert len(examples) >= 2 and all(f" {verb.verb}" in line for line in examples)
    assert verb.description.strip() and SepalApp.subcommands[verb.verb][1] == verb.summary
    for name, trait in verb.class_own_traits(config=True).items():
        assert trait.help, name


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of every page names a file that is there."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_pictures_are_those_that_the_tests_take() -> None:
    """Each picture of docs/images is shown by some page, with words for those who don't see it, and has the name under
    which a test takes it: it can be taken anew."""
    pages = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    taken = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("tests/test_*.py"))
    names = [path.stem for path in ROOT.glob("docs/images/*.png")]
    assert names
    for name in names:
        assert re.search(rf"!\[[^\]]{{20,}}\]\([\w/]*images/{name}\.png\)", pages), name
        pattern = re.sub(r"\d+|light|dark", r"[^\"]+", name)
        assert re.search(rf'picture\([^)]*"{pattern}"', taken), name


def test_ci_runs_the_readmes_own_commands() -> None:
    """The test command that CI takes out of the README is there, and the extras that it names exist."""
    commands = re.findall(r"^python3 -m venv .*$", text("README.md"), re.MULTILINE)
    assert len(commands) == 2 and commands[1].endswith("-m pytest")
    for extra in re.findall(r"\.\[(\w+)\]", "".join(commands)):
        assert re.search(rf"^{extra} = \[", text("pyproject.toml"), re.MULTILINE)


def test_the_policy_table_is_documented() -> None:
    """docs/design.md names every variable that the launch policy touches."""
    from sepal_provisioner.environ import POLICY

    page = text("docs/design.md")
    for rule in POLICY:
        assert f"`{rule.variable}`" in page, rule.variable


def test_the_changelog_has_an_unreleased_section() -> None:
    """What changes next has its place on top."""
    assert re.search(r"^## \[Unreleased\]$", text("CHANGELOG.md"), re.MULTILINE)
