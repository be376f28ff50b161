"""The templates: how numbers become SVG and HTML. Autoescape is on for all of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports.words import presentable

HERE = Path(__file__).parent


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value,
    )


@cache
def svg_css() -> Markup:
    """The style of all pictures: once in a page, and in each picture that stands alone."""
    return Markup((HERE / "svg.css").read_text(encoding="utf-8"))


def draw(template: str, **values: Any) -> Markup:
    """The template filled in: what came from files is escaped, and holds nothing that XML forbids."""
    return Markup(presentable(_environment().get_template(template).render(**values)))
