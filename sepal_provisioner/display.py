"""What a person sees under a cell while the environment is being built: HTML, and the same as text."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape

from .errors import SepalError
from .files import human_time
from .progress import Phase, Progress

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
    """What a cell answers when the environment can't be had: which, why, where the log is, what to do."""
    lines = [f"The environment of {display_name} can't be used.", "", error.message]
    if error.detail:
        lines += ["", *(f"    {line}" for line in error.detail.strip().splitlines()[-40:])]
    lines += ["", f"What to do: {_remedy(error, name)}"]
    if log:
        lines += [f"Log: {log} (or: jupyter sepal log {name})"]
    return "\n".join(lines)


def _remedy(error: SepalError, name: str) -> str:
    again = f"restart the kernel, or run: jupyter sepal build {name} --force"
    return {
        "unsolvable": f"the kernel's author has to relax the environment file. After that, {again}",
        "environment-file": "the kernel's author has to correct the environment file.",
        "pip-failed": f"the kernel's author has to correct the pip section. After that, {again}",
        "probe-failed": f"the kernel's author has to correct the environment file. After that, {again}",
        "store-read-only": "ask the administrator to build it; then restart the kernel.",
        "build-cancelled": "restart the kernel to build it again.",
    }.get(error.code, f"{again}.")


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
