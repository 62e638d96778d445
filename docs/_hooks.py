"""Hooks of `mkdocs build`: the pages of the repository's root, notebooks and the gallery's reports as pages, and tags
in docstrings as text."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
import _gallery  # noqa: E402

ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")  # mkdocs makes a README the home page


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the repository's root, every notebook as a page beside itself, and the gallery's reports."""
    for name in ROOT_PAGES:
        text = (DOCS.parent / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    for notebook in DOCS.glob("*.ipynb"):
        text, resources = MarkdownExporter().from_filename(notebook)
        files.append(File.generated(config, f"{notebook.stem}.md", content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, name, content=content))
    for name, page in _gallery.reports().items():
        files.append(File.generated(config, f"gallery/{name}.html", content=page))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Adapt links to the site, where the pages of the root are beside the others and a notebook is a page."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"]({up}../", f"]({up}").replace(".ipynb)", ".md)")


class Markup(griffe.Extension):
    """Tags such as <think> in a docstring are text, not HTML; "][" is no link."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            parts = obj.docstring.value.split("`")
            parts[::2] = [re.sub(r"</?[a-z]+>", r"`\g<0>`", part).replace("][", "]\\[") for part in parts[::2]]
            obj.docstring.value = "`".join(parts)
