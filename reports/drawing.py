"""The templates: how numbers become SVG and HTML. Autoescape is on for all of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from podrace.reports.safety import presentable, shorten

HERE = Path(__file__).parent
MOST_CHARS = 1200


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    """Numbers to a tenth of a pixel, and texts from files cut, so that a page does not get too long."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return shorten(value, MOST_CHARS) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def svg_css() -> Markup:
    """The style of all pictures: once in a page, and in each picture that stands alone."""
    return Markup((HERE / "svg.css").read_text(encoding="utf-8"))


def draw(template: str, *, alone: bool = True, **values: Any) -> Markup:
    """The template filled in: what came from files is escaped, and holds nothing that XML forbids.

    `alone`: it brings its style with it.
    """
    css = svg_css() if alone else ""
    return Markup(presentable(_environment().get_template(template).render(css=css, **values)))
