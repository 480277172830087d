"""The files of the page hold to a strict content policy."""

from __future__ import annotations

import re
from pathlib import Path


def page_text(ending: str) -> str:
    """Return all files of the page with an ending."""
    import softmaxnet

    folder = Path(softmaxnet.__file__).parent / "server" / "page"
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"*{ending}")))


def test_nothing_is_inline():
    """A strict content policy holds: no script, style or handler is written into the page."""
    html = page_text(".html")
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", html) == []


def test_nothing_comes_from_elsewhere():
    """No file of the page names another host, but the namespace of SVG."""
    text = "".join(page_text(ending) for ending in (".html", ".css", ".js", ".svg"))
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}


def test_text_is_never_markup():
    """No script of the page makes elements out of text."""
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert re.findall(makers, page_text(".js")) == []
