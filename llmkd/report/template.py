"""HTML pages of one file, which load nothing: templates, style and script go inside."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmkd import __version__
from llmkd.report import formats
from llmkd.run_folder import now

ASSETS = Path(__file__).parent / "assets"
MARK = "<!-- made by llmkd report -->"
"""The first line of every page, by which one is known."""


def rendered(template: str, **content: Any) -> str:
    """A page as HTML.

    Args:
        template: A file among the assets.
        **content: What it names besides style, script, version and formats.
    """
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(template).render(
        mark=Markup(MARK),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
        made=now(),
        formats=formats,
        **content,
    )
    # A lone surrogate, which JSON may hold, cannot be written as UTF-8.
    return html.encode("utf-8", "replace").decode("utf-8")


def _asset(name: str) -> Markup:
    """A file of ours, which holds nothing of a run."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


def _hash(content: str) -> str:
    """What lets the page's own script and style run, and none that slipped in."""
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
