"""Views → one HTML file: templates, style and script are embedded, nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench._base.lazy import require

_HERE = Path(__file__).parent
# Inside <script> no character reference is read, so whatever could end it or start a comment is written as \u….
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render(template: str, values: Mapping[str, Any]) -> str:
    """Returns a page.

    Args:
        template: Name of a file in `templates/`.
        values: What it shows. Every text is escaped; only charts, which escape for themselves, are marked as safe.

    Raises:
        DependencyError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", purpose="the report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = lambda text: jinja2.runtime.Markup(text)
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    own = {
        "style": jinja2.runtime.Markup(style),
        "script": jinja2.runtime.Markup(script),
        "policy": _policy(script),
        "island": lambda content: jinja2.runtime.Markup(island(content)),
    }
    return environment.get_template(template).render({**values, **own})


def island(content: Any) -> str:
    """Returns JSON that can stand inside `<script type="application/json">`, whatever texts it holds."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    for character, code in _ESCAPES.items():
        text = text.replace(character, code)
    return text


def _asset(name: str) -> str:
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Returns the page's content security policy: nothing from outside, and no script but our own."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    )
