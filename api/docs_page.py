"""The OpenAPI document as a plain page, made on the server: no script, nothing from elsewhere."""

from html import escape
from typing import Any

from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.plugins import OpenAPIRenderPlugin

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code { font: 0.95em ui-monospace, monospace }
h2 { margin-top: 2rem; text-transform: capitalize }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: 0.35rem 0.75rem 0.35rem 0; border-bottom: 1px solid #8884; vertical-align: top }
"""


class PlainPage(OpenAPIRenderPlugin):
    """Lists every operation with its summary, by tag."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        info = openapi_schema["info"]
        by_tag: dict[str, list[tuple[str, str, str]]] = {}
        for path, operations in openapi_schema["paths"].items():
            for method, operation in operations.items():
                for tag in operation.get("tags") or ["other"]:
                    by_tag.setdefault(tag, []).append((method.upper(), path, operation.get("summary") or ""))
        sections = "".join(
            f"<h2>{escape(tag)}</h2><table><tr><th>Method<th>Path<th>What it does</tr>"
            + "".join(
                f"<tr><td><code>{method}</code><td><code>{escape(path)}</code><td>{escape(summary)}</tr>"
                for method, path, summary in rows
            )
            + "</table>"
            for tag, rows in by_tag.items()
        )
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('description') or '')}</p>"
            f'<p>The whole document: <a href="openapi.json">openapi.json</a></p>{sections}</html>'
        )
        return page.encode()
