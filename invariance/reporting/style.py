"""The look and the bytes of figures: SVG that takes its colour of text from around it, PNG for light and for dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb, to_rgba_array
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the colour of text: the page's own, dark on light or light on dark."""

# the paper's colours (Fig. 1), in lightnesses that hold on white and on near-black
BLUE, GREEN, RED, GRAY, ORANGE = "#2f7fd6", "#1f9a55", "#e0483e", "#868c96", "#d8921f"
_RANGES = (ORANGE, "#d9604c", "#b0479a", "#6f5bd0")

LIGHT, DARK = ("#1b1f24", "#ffffff"), ("#e4e7eb", "#14171b")
"""Colours of text and paper."""

_DPI = 160
_LEAST, _MOST = 1.05, 1.7
"""Pixels of the page that a point of a figure is at least, and at most."""

_DIGITS = 9
"""Of the places of axes, as shares of the figure."""

_FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
_STYLE = {
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "invariance",
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.major.size": 4,
    "ytick.major.size": 4,
    "xtick.minor.size": 2,
    "xtick.minor.width": 0.6,
    "lines.linewidth": 1.7,
    "lines.dashed_pattern": (4, 1.8),
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


@contextmanager
def style(ink: str) -> Iterator[None]:
    """The style of all figures, with a colour of text, left again at the end."""
    settings: dict[Any, Any] = {**sns.axes_style("ticks"), **sns.plotting_context("paper"), **_STYLE}
    settings.update((key, ink) for key in _INKED)
    with mpl.rc_context(settings):
        yield


def canvas(size: tuple[float, float]) -> Figure:
    """An empty figure of a size in inches, outside pyplot's global list."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def growing(n: int) -> list[str]:
    """Colours of n things that grow, as networks by their range."""
    return [to_hex(colour) for colour in sns.blend_palette(_RANGES, max(n, 2))][:n]


def svg(figure: Figure) -> str:
    """A figure drawn in the style of `INK` as an SVG element: no dates, text in the colour of what is around it."""
    buffer = io.StringIO()
    _lay_out(figure)
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(INK, "currentColor").replace("'DejaVu Sans'", _FONTS)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # an image is named by its bytes, and two bars of colours may be the same one; nothing refers to it
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)
    return _shorter(text[text.index("<svg") :])


def _shorter(text: str) -> str:
    """The same drawing in fewer bytes: places to a hundredth of a point, a path on one line."""

    def places(found: re.Match[str]) -> str:
        return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", found[0])).replace(' "', '"')

    return re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: f" {places(found).strip()}", text)


def embedded(text: str, prefix: str, label: str | None) -> str:
    """An SVG element for inside a page: ids of its own, no fixed size, a description (without one it is decoration)."""
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    said = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    head, rest = text.split(">", 1)
    head = re.sub(r' (?:width|height|version|xmlns(?::\w+)?)="[^"]*"', "", head).replace("xlink:", "")
    wide = re.search(r'viewBox="0 0 ([\d.]+)', head)  # letters stay readable on a phone, and no larger than the text
    if wide:
        points = float(wide[1])
        head += f' style="min-width:{_LEAST * points:.0f}px;max-width:{_MOST * points:.0f}px"'
    return f"{head} {said}>{rest.replace('xlink:href', 'href')}".strip()


def standalone(text: str, title: str) -> str:
    """An SVG file: dark on white, or light on near-black where the reader prefers dark."""
    head, rest = text.split(">", 1)
    # a background of its own: what shows the file may be white though the reader prefers dark
    light, dark = (f"svg{{color:{ink};background:{paper}}}" for ink, paper in (LIGHT, DARK))
    follow = f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
    return f"{head}>\n <title>{escape(title)}</title>\n <style>{follow}</style>{rest}"


def png(figure: Figure, *, dark: bool) -> bytes:
    """A figure drawn in the style of `INK` as PNG, dark text on white or light text on near-black."""
    ink, paper = DARK if dark else LIGHT
    buffer = io.BytesIO()
    _lay_out(figure)
    _colour(figure, INK, ink)
    with style(INK):
        figure.savefig(buffer, format="png", dpi=_DPI, facecolor=paper, metadata={"Software": None})
    _colour(figure, ink, INK)
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Place everything, once: to find the places takes longer than to draw."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
        for axes in figure.axes:  # the solver's last digits vary from time to time, and would turn pixels
            left, bottom, width, height = (round(float(x), _DIGITS) for x in axes.get_position(original=True).bounds)
            axes.set_position((left, bottom, width, height))


_COLOURED = ("color", "edgecolor", "facecolor", "markeredgecolor", "markerfacecolor")


def _colour(figure: Figure, old: str, new: str) -> None:
    """Give all that has one colour another, and leave it as transparent as it is."""
    for artist in figure.findobj():
        for name in _COLOURED:
            if not (hasattr(artist, f"get_{name}") and hasattr(artist, f"set_{name}")):
                continue
            held = to_rgba_array(getattr(artist, f"get_{name}")())
            inked = (held[:, :3] == to_rgb(old)).all(axis=1) & (held[:, 3] > 0)
            if inked.any():
                held[inked, :3] = to_rgb(new)
                getattr(artist, f"set_{name}")(held if len(held) > 1 else tuple(held[0]))
