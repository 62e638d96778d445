"""A drawn figure: saved as PNG, SVG and parquet, and written into a page as inline SVG."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from fastsia.files import replacing, write_parquet
from fastsia.report.style import BLUE, GREEN, INK, ORANGE, PURPLE, RULE, SKY, STYLE, VERMILLION

PAGE = "../report.html"
"""A report as seen from the folder of its figures, in links from a mark of a figure."""
_PLACED = {**STYLE, "figure.constrained_layout.use": False}


@dataclass(frozen=True)
class Drawing:
    """A drawn figure.

    Attributes:
        name: Stem of its files.
        title: Its heading on a page.
        caption: How to read it.
        figure: The figure itself.
        numbers: The data that it shows.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    numbers: pd.DataFrame

    def svg(self) -> str:
        """The figure as SVG, text kept as text."""
        self._place()
        buffer = io.StringIO()
        with mpl.rc_context({**_PLACED, "svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "fastsia"})
        return buffer.getvalue()

    def save(self, directory: Path) -> None:
        """Write name.png, name.svg and name.parquet."""
        self._place()
        directory.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({**_PLACED, "svg.fonttype": "path", "svg.hashsalt": self.name}):
            with replacing(directory / f"{self.name}.png") as file:
                self.figure.savefig(file, format="png", dpi=200, facecolor="white")
            with replacing(directory / f"{self.name}.svg") as file:
                self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "fastsia"})
        write_parquet(directory / f"{self.name}.parquet", self.numbers)

    def _place(self) -> None:
        """Place the parts of the figure once. Else each `savefig` would do so, and draw the figure twice."""
        layout = self.figure.get_layout_engine()
        if layout is not None:
            with mpl.rc_context(STYLE):
                layout.execute(self.figure)
            with mpl.rc_context(_PLACED):
                self.figure.set_layout_engine(None)  # "none" is an engine too


_COLOR_CLASS = {
    INK: "ink",
    RULE: "rule",
    BLUE: "blue",
    VERMILLION: "vermillion",
    GREEN: "green",
    ORANGE: "orange",
    SKY: "sky",
    PURPLE: "purple",
}
_FONT = re.compile(r"(?:(?P<weight>bold|\d+)\s+)?(?P<size>[\d.]+)px\b")


def inline_svg(drawing: Drawing) -> str:
    """The figure as an <svg> element for a page whose policy forbids inline styles and whose theme sets the colours.

    Style attributes become presentation attributes; the palette's colours become classes (f-blue, s-ink, ...).
    """
    text = drawing.svg()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'\sstyle="([^"]*)"', _presentation, text)
    # Ids and references are unique within a figure; the page contains several.
    text = re.sub(r'\bid="', f'id="{drawing.name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', lambda m: m.group(1) + drawing.name + "-", text)
    text = text.replace(f'xlink:href="{PAGE}#', 'href="#').replace(' target="_blank"', "")
    head = f'<svg class="figure" role="img" aria-label="{drawing.title}" stroke-linejoin="round"'
    return re.sub(r"<svg\b(?=[^>]*>)", head, text, count=1).replace('xmlns="http://www.w3.org/2000/svg" ', "", 1)


def _presentation(match: re.Match[str]) -> str:
    classes, attributes = [], []
    for declaration in match.group(1).split(";"):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip().replace('"', "'")
        if name == "font":
            font = _FONT.search(value)
            if font is not None:
                attributes.append(f'font-size="{font["size"]}"')
                if font["weight"]:
                    attributes.append(f'font-weight="{font["weight"]}"')
        elif name == "font-family" or not name:
            continue
        elif name in ("fill", "stroke") and value in _COLOR_CLASS:
            classes.append(f"{name[0]}-{_COLOR_CLASS[value]}")
        else:
            attributes.append(f'{name}="{value}"')
    if classes:
        attributes.append(f'class="{" ".join(classes)}"')
    return " " + " ".join(attributes)
