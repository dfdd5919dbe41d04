"""What a report holds, in the order of its page: kept as the page is made, and read by other places that show it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from markupsafe import Markup, escape

from invariance.errors import UserError
from invariance.reporting.table import Table
from invariance.settings.nested import load_json

PAGE, ROWS, CONTENTS = "index.html", "rows.csv", "contents.json"


@dataclass(frozen=True)
class Item:
    """One item of a page.

    Attributes:
        kind: `heading`, `paragraph` (or one entry of a list), `figure` or `table`.
        text: what it says: of a figure the caption, of a table, once it is read, all of it in Markdown.
        level: of a heading, 2 to 4.
        name: of the files of a figure or table.
        path: the PNG of a figure that was read.
    """

    kind: str
    text: str = ""
    level: int = 0
    name: str = ""
    path: Path = Path()

    @property
    def key(self) -> str:
        """A figure's name as media of a W&B run."""
        return f"figures/{self.name}"


@dataclass
class Contents:
    """The contents of a page, kept while its template writes them: every method gives the HTML of what it keeps."""

    items: list[Item] = field(default_factory=list)

    def heading(self, level: int, text: str, anchor: str = "") -> Markup:
        """A heading, with its anchor where it has one."""
        self.items.append(Item("heading", text, level))
        place = f' id="{escape(anchor)}"' if anchor else ""
        return Markup(f"<h{level}{place}>{escape(text)}</h{level}>")

    def paragraph(self, text: str, tag: str = "p", code: str = "") -> Markup:
        """A paragraph, or as `li` one entry of a list; it ends on what is to be set as code."""
        self.items.append(Item("paragraph", " ".join(f"{text}{code}".split())))
        return Markup(f"<{tag}>{escape(text)}{f'<code>{escape(code)}</code>' if code else ''}</{tag}>")

    def figure(self, name: str, caption: str) -> str:
        """A figure; its caption."""
        self.items.append(Item("figure", " ".join(caption.split()), name=name))
        return caption

    def table(self, table: Table) -> Markup:
        """A table."""
        self.items.append(Item("table", name=table.name))
        return Markup(table.html())

    def text(self) -> str:
        """The contents as JSON, without headings that nothing stands under."""
        kept: list[Item] = []
        for item in reversed(self.items):
            following = kept[-1] if kept else None
            ends = following is None or (following.kind == "heading" and following.level <= item.level)
            if item.kind != "heading" or not ends:
                kept.append(item)
        told = [{name: getattr(item, name) for name in ("kind", "text", "level", "name")} for item in reversed(kept)]
        return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def read_contents(folder: Path) -> list[Item]:
    """The contents of a report in the order of its page; what the page folds away is left out, as are empty headings.

    Args:
        folder: the report's folder.

    Raises:
        UserError: if there is no report, or a file of it is missing.
    """
    if not (folder / PAGE).is_file() or not (folder / ROWS).is_file():
        raise UserError(f"there is no report in {folder}: run invariance-report first, or give its folder as report=…")
    path = folder / CONTENTS
    try:
        items = [Item(**item) for item in load_json(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run invariance-report again") from error
    return [_read(folder, item) if item.kind in ("figure", "table") else item for item in items]


def _read(folder: Path, item: Item) -> Item:
    """A figure or table with the file that it names."""
    file = folder / (f"figures/{item.name}.png" if item.kind == "figure" else f"tables/{item.name}.md")
    if ".." in Path(item.name).parts or not file.is_file():
        raise UserError(f"{file} is missing, which the report shows: run invariance-report again")
    return replace(item, path=file) if item.kind == "figure" else replace(item, text=file.read_text(encoding="utf-8"))


def figures_of(contents: Sequence[Item]) -> dict[str, tuple[Path, str]]:
    """The figures among the contents: key → file and caption."""
    return {item.key: (item.path, item.text) for item in contents if item.kind == "figure"}
