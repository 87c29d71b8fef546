"""What a person sees under a cell while the environment is being built: HTML, and the same as text."""

from __future__ import annotations

import re
import textwrap
import time
from dataclasses import dataclass
from html import escape

from .errors import SepalError
from .files import human_time
from .progress import Phase, Progress

WIDTH = 88  # characters of a line of text under a cell
DETAIL_LINES = 40  # of a tool's own words; all of them are in the log
_COMMAND = re.compile(r"`[^`]*`")
_DRAWN = re.compile(r"[\s│├└─]*")  # how a solver draws its reasons

_STEPS = (Phase.SOLVE, Phase.DOWNLOAD, Phase.LINK, Phase.PIP, Phase.COMPILE, Phase.VERIFY)
# Colours are JupyterLab's own where it has them, and otherwise those of the page around: light or dark.
_BOX = (
    "border:1px solid var(--jp-border-color2, rgba(128,128,128,.4));border-radius:6px;padding:10px 14px;"
    "max-width:46em;font-family:var(--jp-ui-font-family, sans-serif);font-size:13px;line-height:1.5;"
    "color:var(--jp-ui-font-color1, currentColor)"
)
_QUIET = "color:var(--jp-ui-font-color2, inherit)"  # no fainter: this is just the contrast that WCAG 2 asks for
_TRACK = "height:6px;border-radius:3px;background:rgba(128,128,128,.28);margin:8px 0;overflow:hidden"
_FILL = "height:6px;border-radius:3px;background:var(--jp-brand-color1, #2b8a5f);width:{width:.1f}%"


@dataclass(frozen=True)
class View:
    """What is shown: for which kernel, how far it is, and since when this person waits."""

    display_name: str
    progress: Progress | None
    since: float  # seconds since the epoch
    own: bool = True  # whether this kernel's own start began the build
    fraction: float = 0.0
    starting: bool = False  # the prefix is ready and the real kernel is on its way


Bundle = dict[str, str]


def progress_bundle(view: View, now: float | None = None) -> Bundle:
    """The display under the first waiting cell, as a MIME bundle."""
    moment = time.time() if now is None else now
    sentence = _sentence(view)
    facts = _facts(view, moment)
    percent = round(view.fraction * 100)
    text = "\n".join(
        [f"Preparing the environment of {view.display_name} … {percent} %", f"  {sentence}", *(f"  {f}" for f in facts)]
    )
    steps = " · ".join(_step(step, view) for step in _STEPS)
    html = (
        f'<div role="group" aria-label="Building an environment" style="{_BOX}">'
        f"<div><b>Preparing the environment of {escape(view.display_name)}</b>"
        f' <span style="float:right;{_QUIET}">{percent}&nbsp;%</span></div>'
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"'
        f' aria-valuetext="{escape(sentence, quote=True)}" style="{_TRACK}">'
        f'<div style="{_FILL.format(width=view.fraction * 100)}"></div></div>'
        f"<div>{escape(sentence)}</div>"
        f'<div style="{_QUIET};font-size:12px">{steps}</div>'
        f'<div style="{_QUIET};font-size:12px">{"<br>".join(escape(fact) for fact in facts)}</div>'
        "</div>"
    )
    return {"text/html": html, "text/plain": text}


def queued_bundle(position: int) -> Bundle:
    """The one quiet line under every other waiting cell."""
    text = f"Waits for the environment; runs as number {position} when it is ready."
    return {"text/html": f'<div style="{_QUIET};font-size:12px">{text}</div>', "text/plain": text}


def notice_bundle(sentence: str) -> Bundle:
    """A quiet remark above a cell's own output."""
    html = f'<div role="note" style="{_QUIET};font-size:12px">{escape(sentence)}</div>'
    return {"text/html": html, "text/plain": sentence}


def failure_text(display_name: str, error: SepalError, log: str, name: str) -> str:
    """What a cell answers when the environment can't be had: which, why, what to do, and where the log is."""
    lines = [f"The environment of {display_name} can't be used.", "", *wrapped(error.message)]
    if error.detail:
        detail = error.detail.strip().splitlines()[-DETAIL_LINES:]
        lines += ["", *(part for line in detail for part in wrapped(line, "    "))]
    todo, command = _remedy(error, name)
    lines += ["", *wrapped(f"What to do: {todo}"), *([f"    {command}"] if command else [])]
    if log:
        lines += ["", f"Log: jupyter sepal log {name}", f"     {log}"]
    return "\n".join(lines)


def wrapped(text: str, indent: str = "") -> list[str]:
    """A text as lines of at most WIDTH characters, broken between words: JupyterLab breaks longer ones anywhere.

    What is in backticks stays whole, and what is longer than a line. A line of a drawn tree stays below its own words.
    """
    found = []
    for line in text.splitlines() or [""]:
        drawn = _DRAWN.match(line)
        margin = " " * len(drawn[0]) if drawn else ""
        whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), line)
        parts = textwrap.wrap(
            whole,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        found += [part.replace("\0", " ") for part in parts] or [""]
    return found


def _remedy(error: SepalError, name: str) -> tuple[str, str]:
    """(what helps, the command that does it, or "")."""
    again = "restart the kernel, or run in a terminal:"
    todo = {
        "unsolvable": f"the kernel's author has to relax the environment file. After that, {again}",
        "pip-failed": f"the kernel's author has to correct the pip section. After that, {again}",
        "probe-failed": f"the kernel's author has to correct the environment file. After that, {again}",
        "environment-file": "the kernel's author has to correct the environment file.",
        "store-read-only": "ask the administrator to build it; then restart the kernel.",
        "build-cancelled": "restart the kernel to build it again.",
    }.get(error.code, again)
    return todo, f"jupyter sepal build {name} --force" if todo.endswith(again) else ""


def _sentence(view: View) -> str:
    if view.starting:
        return "Ready; starting the kernel"
    return view.progress.sentence() if view.progress else "Starting the build"


def _facts(view: View, now: float) -> list[str]:
    progress = view.progress
    began = progress.started if progress else view.since
    facts = [f"{human_time(max(0, now - began))} so far"]
    if progress and progress.previous:
        facts[0] += f"; it took {human_time(progress.previous)} last time"
    if progress and not view.own:
        facts.append(f"Started by {progress.user} on {progress.host}{_clock(progress.started)}")
    facts.append("Your cell runs by itself when it is ready. Closing the notebook does not stop the build.")
    return facts


def _clock(moment: float) -> str:
    """` at 14:05`, or nothing for a moment that no clock shows."""
    try:
        return time.strftime(" at %H:%M", time.localtime(moment))
    except (OverflowError, ValueError, OSError):
        return ""


def _step(step: Phase, view: View) -> str:
    current = Phase.DONE if view.starting else view.progress.phase if view.progress else Phase.PREPARE
    order = list(Phase)
    if order.index(step) < order.index(current):
        return f"✓&nbsp;{step.value}"
    return f"<b>{step.value}</b>" if step is current else step.value
