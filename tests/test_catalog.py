"""Catalogs as values: which entries are kernels, and that a bad one costs itself and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from sepal_provisioner.catalog import APPS_LIMIT, Catalog, parse_catalog, repository_name, without_credentials
from sepal_provisioner.errors import CatalogError

SCHEMES = frozenset({"https", "ssh"})
REAL = SHARED / "apps.test.json"
COMMIT = "8a382a9482f0448d79c3ece12dd330a16be78ae9"


def entry(**changes: Any) -> dict[str, Any]:
    """A sound catalog entry with changes; a value of None takes a key out."""
    sound = {"id": "gwb", "label": "GWB", "endpoint": "jupyter", "repository": "https://github.com/sepal-contrib/gwb"}
    return {key: value for key, value in {**sound, **changes}.items() if value is not None}


def parse(*entries: Any, schemes: frozenset[str] = SCHEMES) -> Catalog:
    """The catalog of these entries."""
    return parse_catalog(json.dumps({"apps": entries, "tags": []}).encode(), schemes)


def kernels(catalog: Catalog) -> list[str]:
    """The kernel names of a catalog, in order."""
    return [app.kernel_name for app in catalog.apps if app.is_kernel]


def test_an_entry_with_jupyter_and_a_repository_is_a_kernel() -> None:
    """Every field of an entry arrives, the kernel name comes from the repository and not from the id."""
    catalog = parse(entry(id="SMFM_deforest", label=" Deforest ", branch="main", commit=COMMIT.upper()))
    (app,) = catalog.apps
    assert catalog.problems == ()
    assert app.is_kernel
    assert (app.id, app.label, app.branch, app.commit) == ("SMFM_deforest", "Deforest", "main", COMMIT)
    assert (app.name, app.kernel_name) == ("gwb", "venv-gwb")
    assert (app.hidden, app.skip) == (False, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": None},
        {"repository": ""},
        {"endpoint": None},
        {"endpoint": "docker"},
        {"endpoint": "shiny"},
        {"endpoint": "rstudio"},
        {"endpoint": "Jupyter"},
    ],
    ids=str,
)
def test_other_entries_are_applications_but_no_kernels(changes: dict[str, Any]) -> None:
    """Entries without a repository or with another endpoint are kept, are no kernels, and are no problem either."""
    catalog = parse(entry(**changes))
    assert len(catalog.apps) == 1
    assert kernels(catalog) == []
    assert catalog.problems == ()


def test_what_is_no_kernel_may_name_any_repository() -> None:
    """Only a kernel's repository is fetched, so only a kernel's repository is judged."""
    catalog = parse(entry(endpoint="docker", repository="file:///etc", branch="--option", commit="HEAD"))
    assert catalog.problems == ()


def test_hidden_and_skip_are_recorded_and_hidden_stays_a_kernel() -> None:
    """`hidden` hides a dashboard tile and never the kernel; `skip` is handed on to the sync."""
    catalog = parse(entry(hidden=True, skip=True))
    (app,) = catalog.apps
    assert app.is_kernel
    assert (app.hidden, app.skip) == (True, True)


def test_unknown_keys_are_kept_as_they_came() -> None:
    """Keys that this package doesn't know, nested applications among them, are kept."""
    more = {"apps": [{"id": "inner", "label": "Inner"}], "tags": ["A"], "port": 8765, "logoRef": None}
    catalog = parse_catalog(json.dumps({"apps": [{**entry(), **more}]}).encode(), SCHEMES)
    assert catalog.apps[0].extra == more


def test_labels_may_be_any_text() -> None:
    """A label in any script, with emoji and combining marks, arrives as it is."""
    label = "Suivi des forêts — Ökosystem 森林 🌳 y̆"
    assert parse(entry(label=label)).apps[0].label == label


def test_an_empty_branch_or_commit_means_none() -> None:
    """An empty or null branch is the remote's HEAD, and an empty or null commit pins nothing."""
    for value in ("", None):
        document = {"apps": [{**entry(), "branch": value, "commit": value}]}
        (app,) = parse_catalog(json.dumps(document).encode(), SCHEMES).apps
        assert (app.branch, app.commit) == (None, None)


def test_a_byte_order_mark_is_no_fault() -> None:
    """A catalog that an editor saved with a byte order mark is read like any other."""
    data = b"\xef\xbb\xbf" + json.dumps({"apps": [entry()]}).encode()
    assert kernels(parse_catalog(data, SCHEMES)) == ["venv-gwb"]


def test_of_names_that_are_equal_in_lower_case_the_first_wins() -> None:
    """Kernel names compare in lower case; the second entry is reported with both ids, and the others stay."""
    catalog = parse(
        entry(id="first", repository="https://github.com/a/GWB"),
        entry(id="second", repository="https://gitlab.com/b/gwb.git"),
        entry(id="third", repository="https://github.com/a/other"),
    )
    assert [app.id for app in catalog.apps] == ["first", "third"]
    (problem,) = catalog.problems
    assert "second" in problem.place
    assert "repository" in problem.place
    assert "first" in problem.message
    assert "venv-gwb" in problem.message


def test_only_kernels_compete_for_a_name() -> None:
    """A docker application with the same repository takes no kernel's name away."""
    catalog = parse(entry(id="container", endpoint="docker"), entry(id="kernel"))
    assert [app.id for app in catalog.apps] == ["container", "kernel"]
    assert catalog.problems == ()


BAD_ENTRIES: dict[str, tuple[Any, str]] = {
    "a text": ("gwb", ""),
    "a list": ([], ""),
    "null": (None, ""),
    "a number": (7, ""),
    "no id": (entry(id=None), ".id"),
    "blank id": (entry(id=" "), ".id"),
    "id of another type": (entry(id=7), ".id"),
    "no label": (entry(label=None), ".label"),
    "empty label": (entry(label=""), ".label"),
    "label of another type": (entry(label=["GWB"]), ".label"),
    "label with a newline": (entry(label="GWB\nKernel"), ".label"),
    "label with an escape sequence": (entry(label="\x1b[31mGWB"), ".label"),
    "label that runs from right to left": (entry(label="\u202egwb"), ".label"),
    "label with half a character": (entry(label="GWB \ud800"), ".label"),
    "label of 1 MB": (entry(label="x" * 1_000_000), ".label"),
    "endpoint of another type": (entry(endpoint=["jupyter"]), ".endpoint"),
    "repository of another type": (entry(repository={"url": "https://github.com/a/b"}), ".repository"),
    "hidden of another type": (entry(hidden="yes"), ".hidden"),
    "skip of another type": (entry(skip=1), ".skip"),
    "remote helper": (entry(repository="ext::sh -c touch% /tmp/pwned"), ".repository"),
    "remote helper without blanks": (entry(repository="ext::sh"), ".repository"),
    "remote helper in a URL": (entry(repository="fd::17/foo"), ".repository"),
    "option": (entry(repository="--upload-pack=touch"), ".repository"),
    "option in a scp-like address": (entry(repository="-oProxyCommand=x:owner/name"), ".repository"),
    "option as a host": (entry(repository="ssh://-oProxyCommand=touch/name"), ".repository"),
    "option as a host after a user": (entry(repository="ssh://git@-oProxyCommand=touch/name"), ".repository"),
    "relative path": (entry(repository="../.."), ".repository"),
    "absolute path": (entry(repository="/etc"), ".repository"),
    "file": (entry(repository="file:///etc"), ".repository"),
    "file in capitals": (entry(repository="FILE:///etc"), ".repository"),
    "http": (entry(repository="http://github.com/a/b"), ".repository"),
    "host only": (entry(repository="https://host/"), ".repository"),
    "host only, without a slash": (entry(repository="https://host"), ".repository"),
    "no host": (entry(repository="https:///name"), ".repository"),
    "dots": (entry(repository="https://host/.."), ".repository"),
    "dots and a slash": (entry(repository="https://host/owner/../"), ".repository"),
    "only .git": (entry(repository="https://host/owner/.git"), ".repository"),
    "hidden folder": (entry(repository="https://host/owner/.ssh"), ".repository"),
    "name that is an option": (entry(repository="https://host/owner/-x"), ".repository"),
    "query": (entry(repository="https://host/owner/name?x=/y"), ".repository"),
    "name of 200 characters": (entry(repository="https://host/owner/" + "n" * 200), ".repository"),
    "name in another script": (entry(repository="https://host/owner/naïve"), ".repository"),
    "bad IPv6": (entry(repository="https://[fe80:/owner/name"), ".repository"),
    "blank in the URL": (entry(repository="https://host/owner/na me"), ".repository"),
    "newline in the URL": (entry(repository="https://host/owner/name\n"), ".repository"),
    "NUL in the URL": (entry(repository="https://host/owner/name\0"), ".repository"),
    "URL of 1 MB": (entry(repository="https://host/" + "x" * 1_000_000), ".repository"),
    "branch that is an option": (entry(branch="--option"), ".branch"),
    "branch that is a short option": (entry(branch="-x"), ".branch"),
    "branch with dots": (entry(branch="a..b"), ".branch"),
    "branch with a blank": (entry(branch="a b"), ".branch"),
    "branch with a colon": (entry(branch="a:b"), ".branch"),
    "branch with a newline": (entry(branch="main\n"), ".branch"),
    "branch that ends in .lock": (entry(branch="main.lock"), ".branch"),
    "branch with a reflog": (entry(branch="main@{1}"), ".branch"),
    "branch with half a character": (entry(branch="main\ud800"), ".branch"),
    "branch of another type": (entry(branch=1), ".branch"),
    "short commit": (entry(commit=COMMIT[:7]), ".commit"),
    "commit with a newline": (entry(commit=COMMIT + "\n"), ".commit"),
    "commit that is a name": (entry(commit="HEAD"), ".commit"),
    "commit that is an option": (entry(commit="--" + COMMIT[2:]), ".commit"),
    "commit of another type": (entry(commit=int("1" * 40)), ".commit"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_a_bad_entry_costs_itself_and_is_reported_with_its_place(case: str) -> None:
    """A bad entry becomes one problem with the path to its fault; the entries around it are kernels as before."""
    bad, field = BAD_ENTRIES[case]
    good = [entry(id=name, repository=f"https://github.com/a/{name}") for name in ("before", "after")]
    catalog = parse(good[0], bad, good[1])
    assert kernels(catalog) == ["venv-before", "venv-after"]
    (problem,) = catalog.problems
    assert problem.place == f"apps[1]{field}"
    assert str(problem) == f"{problem.place}: {problem.message}"
    assert 0 < len(problem.message) < 5_000
    problem.message.encode()


@pytest.mark.parametrize("url", ["ext::sh", "fd::17/foo", "::name", "git-remote-x::https://host/owner/name"])
def test_a_remote_helper_is_called_by_its_name(url: str) -> None:
    """Whoever puts a git remote helper into a catalog is told why it is refused."""
    assert "could run any command" in parse(entry(repository=url)).problems[0].message


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/sepal-contrib/eSBAE_notebooks", "venv-esbae_notebooks"),
        ("https://github.com/sepal-contrib/se.plan.git", "venv-se.plan"),
        ("https://github.com/sepal-contrib/se.plan/", "venv-se.plan"),
        ("https://token:x@github.com/sepal-contrib/gwb", "venv-gwb"),
        ("https://github.com:8443/sepal-contrib/gwb.git/", "venv-gwb"),
        ("https://[2001:db8::1]/sepal-contrib/gwb", "venv-gwb"),
        ("ssh://git@github.com/sepal-contrib/gwb.git", "venv-gwb"),
        ("git@github.com:sepal-contrib/gwb.git", "venv-gwb"),
        ("git@github.com:gwb.git", "venv-gwb"),
    ],
)
def test_sound_repositories_give_the_kernel_its_name(url: str, name: str) -> None:
    """Every usual way to write a repository is accepted, and its last part without `.git` names the kernel."""
    catalog = parse(entry(repository=url))
    assert catalog.problems == ()
    assert kernels(catalog) == [name]
    assert f"venv-{repository_name(url).lower()}" == name


def test_a_scheme_is_refused_or_allowed_by_the_setting() -> None:
    """`file` and `http` work when the setting names them, and the refusal names the setting."""
    urls = ("file:///srv/repositories/gwb", "http://host/owner/gwb")
    for url in urls:
        assert kernels(parse(entry(repository=url), schemes=frozenset({"file", "http"}))) == ["venv-gwb"]
        assert "repository_schemes" in parse(entry(repository=url)).problems[0].message


def test_ssh_in_both_spellings_obeys_the_setting() -> None:
    """`git@host:owner/name` is ssh, and is refused where ssh is."""
    for url in ("git@github.com:a/b.git", "ssh://git@github.com/a/b.git"):
        assert kernels(parse(entry(repository=url), schemes=frozenset({"https"}))) == []


def test_a_problem_shows_no_password() -> None:
    """A refused URL is shown without its user and password."""
    (problem,) = parse(entry(repository="http://user:secret@host/owner/name")).problems
    assert "secret" not in str(problem)
    assert "host/owner/name" in str(problem)


BAD_DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "HTML": (b"<!doctype html><title>Sign in</title>", "line 1"),
    "not UTF-8": (b'{"apps": [{"id": "\xff"}]}', "not UTF-8"),
    "UTF-16": ('{"apps": []}'.encode("utf-16"), "not UTF-8"),
    "truncated": (json.dumps({"apps": [entry()]}).encode()[:-20], "not JSON"),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, "nested"),
    "nested inside an entry": (b'{"apps": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}", "nested"),
    "a number of 10,000 digits": (b'{"apps": ' + b"9" * 10_000 + b"}", "digits"),
    "a list at the top": (b"[]", "list"),
    "a text": (b'"apps"', "str"),
    "null": (b"null", "NoneType"),
    "no apps": (b'{"tags": []}', "apps"),
    "apps is an object": (b'{"apps": {}}', "dict"),
    "apps is a text": (b'{"apps": "gwb"}', "str"),
    "25,000 entries": (json.dumps({"apps": [{"id": "a", "label": "a"}] * 25_000}).encode(), str(APPS_LIMIT)),
}


@pytest.mark.parametrize("case", BAD_DOCUMENTS)
def test_a_document_that_is_no_catalog_is_an_error_that_says_why(case: str) -> None:
    """What holds no list of entries at all is a CatalogError with the reason in its text."""
    data, said = BAD_DOCUMENTS[case]
    with pytest.raises(CatalogError, match=said) as raised:
        parse_catalog(data, SCHEMES)
    assert raised.value.code == "catalog-invalid"
    assert len(raised.value.message) < 1_000


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://github.com/a/b", "https://github.com/a/b"),
        ("https://user:secret@github.com/a/b", "https://github.com/a/b"),
        ("https://ghp_secret@github.com/a/b", "https://github.com/a/b"),
        ("https://user:secret@host:8443/a/b?x=1#y", "https://host:8443/a/b?x=1#y"),
        ("https://user:se@cret@host/a/b", "https://host/a/b"),
        ("https://host/a/b@v1.0", "https://host/a/b@v1.0"),
        ("git+https://user:secret@host/a/b@main#apps.json", "git+https://host/a/b@main#apps.json"),
        ("ssh://git@github.com/a/b.git", "ssh://git@github.com/a/b.git"),
        ("ssh://git:secret@github.com:22/a/b.git", "ssh://git@github.com:22/a/b.git"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("https://user:secret@[fe80:/a/b", "https://[fe80:/a/b"),
        ("https://user:sec/ret@host/a/b", "https://host/a/b"),
        ("https://user:sec#ret@host/a/b", "https://host/a/b"),
        ("https://user:sec?ret@host/a/b", "https://host/a/b"),
        ("/srv/apps.json", "/srv/apps.json"),
        ("", ""),
    ],
)
def test_credentials_are_taken_out_of_a_url(url: str, shown: str) -> None:
    """A password or token never survives, in any spelling; what carries no secret is shown as it is."""
    assert without_credentials(url) == shown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
texts = st.text(max_size=30) | st.sampled_from(["jupyter", "https://h/a/b", "git@h:a/b", "main", COMMIT, "ssh://x@:"])
entries = st.dictionaries(
    st.sampled_from(["id", "label", "endpoint", "repository", "branch", "commit", "hidden", "skip", "apps"]),
    texts | json_values,
)


@given(st.one_of(json_values, st.fixed_dictionaries({"apps": st.lists(entries | json_values, max_size=6)})))
def test_any_json_is_a_catalog_or_a_catalog_error(document: Any) -> None:
    """Whatever JSON holds, each entry is an app or a problem, or the whole is a CatalogError, and nothing else."""
    try:
        catalog = parse_catalog(json.dumps(document).encode(), SCHEMES)
    except CatalogError:
        return
    assert len(catalog.apps) + len(catalog.problems) == len(document["apps"])
    for app in catalog.apps:
        if app.is_kernel:
            assert app.kernel_name.encode("ascii")
            (app.branch or "").encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_catalog_or_a_catalog_error(data: bytes) -> None:
    """Whatever bytes arrive, parsing ends in a catalog or in a CatalogError."""
    try:
        assert isinstance(parse_catalog(data, SCHEMES), Catalog)
    except CatalogError as error:
        assert error.message


@given(st.text(max_size=60))
def test_taking_credentials_out_never_fails(url: str) -> None:
    """Any text at all can be shown, and showing it twice changes nothing more."""
    shown = without_credentials(url)
    assert without_credentials(shown) == shown


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real catalog isn't here: {REAL}")
def test_the_real_catalog_gives_exactly_the_kernels_of_the_rules() -> None:
    """On the platform's own catalog the kernels are those that the written rules say, in its order, without a fault."""
    raw = json.loads(REAL.read_bytes())["apps"]
    expected = [
        "venv-" + one["repository"].rsplit("/", 1)[1].lower()
        for one in raw
        if one.get("endpoint") == "jupyter" and one.get("repository")
    ]
    catalog = parse_catalog(REAL.read_bytes(), SCHEMES)
    assert catalog.problems == ()
    assert [app.id for app in catalog.apps] == [one["id"] for one in raw]
    assert kernels(catalog) == expected
    assert expected == [
        "venv-sbae-design",
        "venv-sepal_pysmm",
        "venv-planet_active_fires_explorer",
        "venv-deforestation-alerts-module",
        "venv-vector_manager",
        "venv-clip-time-series",
        "venv-sepal_smfm_biota",
        "venv-deforest",
        "venv-sdg_15.3.1",
        "venv-gwb",
        "venv-planet-order",
        "venv-damage_proxy_maps",
        "venv-cumsum_change",
        "venv-weplan",
        "venv-sepal-leafmap",
        "venv-esbae_notebooks",
        "venv-pyeo",
        "venv-sepal-sam",
        "venv-spatial-risk-module",
    ]
    assert "venv-se.plan" not in expected
    assert [app.kernel_name for app in catalog.apps if app.is_kernel and app.skip] == ["venv-sbae-design"]
    assert [app.kernel_name for app in catalog.apps if app.is_kernel and app.hidden] == [
        "venv-damage_proxy_maps",
        "venv-esbae_notebooks",
        "venv-pyeo",
        "venv-sepal-sam",
    ]
