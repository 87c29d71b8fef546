"""Logos: a repository's own picture, when it is one and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sepal_provisioner.errors import StoreError
from sepal_provisioner.logos import LOGO_LIMIT, copy_logos

PNG = b"\x89PNG\r\n\x1a\n" + b"rest of a picture"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0" style="fill:#0a0"/></svg>'
NS = 'xmlns="http://www.w3.org/2000/svg"'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An empty repository."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where logos go."""
    return tmp_path / "resources" / "venv-gwb"


def copied(target: Path) -> list[str]:
    """What was copied."""
    return sorted(os.listdir(target)) if target.exists() else []


@pytest.mark.parametrize(
    ("name", "content", "copy"),
    [
        ("logo-64x64.png", PNG, "logo-64x64.png"),
        ("logo.png", PNG, "logo-64x64.png"),
        ("logo-svg.svg", SVG, "logo-svg.svg"),
        ("logo.svg", SVG, "logo-svg.svg"),
        ("logo.svg", b"\xef\xbb\xbf" + SVG, "logo-svg.svg"),
        ("logo.svg", SVG.replace(b"<path", "<title>Forêts: 森林, scripted</title><path".encode()), "logo-svg.svg"),
    ],
)
def test_a_logo_is_copied_under_jupyters_name(
    checkout: Path, target: Path, name: str, content: bytes, copy: str
) -> None:
    """A picture under any of the usual names arrives byte for byte under the name that Jupyter looks for."""
    (checkout / name).write_bytes(content)
    assert copy_logos(checkout, target)
    assert copied(target) == [copy]
    assert (target / copy).read_bytes() == content


def test_a_repository_without_a_logo_has_none(checkout: Path, target: Path) -> None:
    """Without a logo nothing is created."""
    assert not copy_logos(checkout, target)
    assert not target.exists()


def test_the_better_name_wins_and_a_bad_file_makes_way_for_the_next(checkout: Path, target: Path) -> None:
    """The exact name is preferred, unless what lies there is no picture."""
    (checkout / "logo.png").write_bytes(PNG + b"plain")
    (checkout / "logo-64x64.png").write_bytes(PNG + b"exact")
    assert copy_logos(checkout, target)
    assert (target / "logo-64x64.png").read_bytes() == PNG + b"exact"
    (checkout / "logo-64x64.png").write_bytes(b"no picture")
    assert copy_logos(checkout, target)
    assert (target / "logo-64x64.png").read_bytes() == PNG + b"plain"


def test_an_unchanged_logo_is_not_written_again(checkout: Path, target: Path) -> None:
    """A second sync leaves the file alone, and a changed logo replaces it."""
    (checkout / "logo.png").write_bytes(PNG)
    copy_logos(checkout, target)
    os.utime(target / "logo-64x64.png", (1, 1))
    copy_logos(checkout, target)
    assert (target / "logo-64x64.png").stat().st_mtime == 1
    (checkout / "logo.png").write_bytes(PNG + b"new")
    copy_logos(checkout, target)
    assert (target / "logo-64x64.png").read_bytes() == PNG + b"new"


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG", SVG, b"<html></html>", b"\xff\xd8\xff\xe0"])
def test_a_png_needs_a_pngs_signature(checkout: Path, target: Path, content: bytes) -> None:
    """A file that only calls itself PNG is not copied."""
    (checkout / "logo.png").write_bytes(content)
    assert not copy_logos(checkout, target)
    assert copied(target) == []


ACTIVE = {
    "a script": f"<svg {NS}><script>alert(1)</script></svg>",
    "a script in capitals": f"<svg {NS}><SCRIPT>alert(1)</SCRIPT></svg>",
    "a script in another namespace prefix": f'<svg {NS} xmlns:x="http://www.w3.org/2000/svg"><x:script/></svg>',
    "an event": f'<svg {NS} onload="alert(1)"></svg>',
    "an event on a line of its own": f'<svg {NS}><rect\nonclick\n="alert(1)"/></svg>',
    "an event behind a slash": f"<svg {NS}><rect/onclick=alert(1)></svg>",
    "a link to a script": f'<svg {NS}><a href="javascript:alert(1)"><rect/></a></svg>',
    "a link to a script, written as entities": f'<svg {NS}><a href="&#106;avascript:alert(1)"><rect/></a></svg>',
    "a link to a script, with a tab": f'<svg {NS}><a href="java\tscript:alert(1)"><rect/></a></svg>',
    "a foreign object": f"<svg {NS}><foreignObject><body/></foreignObject></svg>",
    "a frame": f'<svg {NS}><iframe src="https://host"/></svg>',
    "an embedded object": f'<svg {NS}><h:embed xmlns:h="http://www.w3.org/1999/xhtml" src="https://host"/></svg>',
    "an entity": f'<!DOCTYPE svg [<!ENTITY a "b">]><svg {NS}>&a;</svg>',
    "an external entity": f'<!DOCTYPE svg SYSTEM "file:///etc/passwd"><svg {NS}/>',
    "a style sheet that transforms": f'<?xml-stylesheet type="text/xsl" href="data:text/xml,x"?><svg {NS}/>',
}


@pytest.mark.parametrize("case", ACTIVE)
def test_an_svg_that_could_do_something_is_refused(checkout: Path, target: Path, case: str) -> None:
    """Jupyter serves logos from its own origin, so that an SVG which could run anything there is left out."""
    (checkout / "logo.svg").write_text(ACTIVE[case], encoding="utf-8")
    assert not copy_logos(checkout, target)
    assert copied(target) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_an_svg_in_another_encoding_is_refused(checkout: Path, target: Path, encoding: str) -> None:
    """A script can't be hidden in an encoding that the check doesn't read: two CJK letters spell `<svg` in UTF-16."""
    spelt = "\u733c\u6776"
    assert b"<svg" in spelt.encode("utf-16-le")
    for start in ("\ufeff", "", '<?xml version="1.0" encoding="utf-16"?>'):
        (checkout / "logo.svg").write_text(f"{start}<!--{spelt}--><svg {NS}><script/></svg>", encoding=encoding)
        assert not copy_logos(checkout, target)


def test_an_svg_that_claims_another_encoding_is_refused(checkout: Path, target: Path) -> None:
    """A declaration of another encoding than UTF-8 is not believed."""
    content = f'<?xml version="1.0" encoding="utf-7"?><svg {NS}>+ADw-script+AD4-alert(1)+ADw-/script+AD4-</svg>'
    (checkout / "logo.svg").write_text(content, encoding="ascii")
    assert not copy_logos(checkout, target)


def test_what_is_no_svg_is_refused(checkout: Path, target: Path) -> None:
    """HTML, an empty file and a picture of another kind are no SVG."""
    for content in (b"", b"<html></html>", PNG, b"x" * 5_000 + SVG):
        (checkout / "logo.svg").write_bytes(content)
        assert not copy_logos(checkout, target)


def test_a_link_out_of_the_repository_is_refused(checkout: Path, target: Path, tmp_path: Path) -> None:
    """A repository can't have a file of the server's copied to where everybody reads it; a link inside is fine."""
    (tmp_path / "secret.png").write_bytes(PNG + b"secret")
    (checkout / "logo.png").symlink_to("../secret.png")
    assert not copy_logos(checkout, target)
    assert copied(target) == []
    (checkout / "logo.png").unlink()
    (checkout / "picture").write_bytes(PNG)
    (checkout / "logo.png").symlink_to("picture")
    assert copy_logos(checkout, target)


def test_odd_files_are_no_logos(checkout: Path, target: Path) -> None:
    """A link to itself, a FIFO and a folder are no logos, and none of them is waited for."""
    (checkout / "logo.png").symlink_to("logo.png")
    os.mkfifo(checkout / "logo-64x64.png")
    (checkout / "logo.svg").mkdir()
    assert not copy_logos(checkout, target)


def test_a_logo_that_is_too_large_is_refused(checkout: Path, target: Path) -> None:
    """A logo may have up to the limit and not a byte more."""
    (checkout / "logo.png").write_bytes(PNG.ljust(LOGO_LIMIT + 1, b"x"))
    assert not copy_logos(checkout, target)
    (checkout / "logo.png").write_bytes(PNG.ljust(LOGO_LIMIT, b"x"))
    assert copy_logos(checkout, target)


def test_a_store_that_cannot_be_written_is_a_store_error(checkout: Path, tmp_path: Path) -> None:
    """Where the copy can't be written, the error says so."""
    (checkout / "logo.png").write_bytes(PNG)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        copy_logos(checkout, tmp_path / "file" / "venv-gwb")
