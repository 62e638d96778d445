"""What `mkdocs build` needs besides mkdocs.yml: pages that do not lie in docs/, and docstrings as it reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

DOCS = Path(__file__).parent
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")  # mkdocs makes a README the home page


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the repository's root, and every notebook as a page beside itself."""
    for name in ROOT_PAGES:
        text = (DOCS.parent / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    for notebook in DOCS.glob("*.ipynb"):
        text, resources = MarkdownExporter().from_filename(notebook)
        files.append(File.generated(config, f"{notebook.stem}.md", content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, name, content=content))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as the site has it: the root's pages lie beside the others, and a notebook is a page."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"]({up}../", f"]({up}").replace(".ipynb)", ".md)")


class Fields(griffe.Extension):
    """Docstrings as mkdocstrings reads them.

    Paragraphs "name: what it is. name, name: what they are." become sections "Attributes:" and "Args:", which it draws
    as tables; names that share a line get one each; tags such as <think> and brackets are text.
    """

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        _rewrite(cls, "Attributes", cls.members)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        _rewrite(func, "Args", func.parameters)


def _rewrite(documented: griffe.Object, section: str, names: Any) -> None:
    if documented.docstring is None:
        return
    paragraphs = documented.docstring.value.split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        text = " ".join(line.strip() for line in paragraph.split("\n"))
        labels = [
            label
            for label in re.finditer(r"(?:(?<=\. )|^)(\w+(?:, \w+)*): ", text)
            if all(name in names for name in label[1].split(", "))
        ]
        if labels and labels[0].start() == 0:
            ends = [*(label.start() for label in labels[1:]), len(text)]
            rows = [f"    {text[label.start() : end].strip()}" for label, end in zip(labels, ends, strict=True)]
            paragraphs[i] = "\n".join([f"{section}:", *rows])
        else:
            paragraphs[i] = re.sub(r"^Raises (\w+):? ", r"Raises:\n    \1: ", paragraph)
    parts = "\n\n".join(paragraphs).split("`")
    parts[::2] = [re.sub(r"</?[a-z]+>", r"`\g<0>`", part).replace("][", "]\\[") for part in parts[::2]]
    documented.docstring.value = re.sub(
        r"^    (\w+(?:, \*{0,2}\w+)+): (.*(?:\n {8,}.*)*)",
        lambda row: "\n".join(f"    {name.strip('*')}: {row[2]}" for name in row[1].split(", ")),
        "`".join(parts),
        flags=re.MULTILINE,
    )
