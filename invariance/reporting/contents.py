"""What a finished report holds, in the order of its page: read back from the folder, for other places to show."""

from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

from invariance.errors import UserError

PAGE, ROWS = "index.html", "rows.csv"
_VOID = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
_UNSAID = ("script", "style", "svg", "table", "nav", "details")
_HEADINGS = ("h2", "h3", "h4")
_FOLDERS = (("figures",), ("tables",))


@dataclass(frozen=True)
class Heading:
    """A heading of the page; its level is 2 to 4."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of the page, or one entry of a list."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        name: name of its files.
        path: the PNG.
        caption: what it shows.
    """

    name: str
    path: Path
    caption: str

    @property
    def key(self) -> str:
        """Its name as media of a W&B run."""
        return f"figures/{self.name}"


@dataclass(frozen=True)
class TableText:
    """A table of the page, with its caption, in Markdown."""

    name: str
    markdown: str


Item = Heading | Paragraph | Figure | TableText


def read_contents(folder: Path) -> list[Item]:
    """The contents of a report in the order of its page; what the page folds away is left out, as are empty headings.

    Args:
        folder: the report's folder.

    Raises:
        UserError: if there is no report, or a file of it is missing.
    """
    page = folder / PAGE
    if not page.is_file() or not (folder / ROWS).is_file():
        raise UserError(f"there is no report in {folder}: run invariance-report first, or give its folder as report=…")
    reader = _Reader(folder)
    try:
        reader.feed(page.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page} cannot be read ({error}); run invariance-report again") from error
    kept: list[Item] = []
    for item in reversed(reader.items):
        following = kept[-1] if kept else None
        empty = isinstance(item, Heading) and (
            following is None or (isinstance(following, Heading) and following.level <= item.level)
        )
        if not empty:
            kept.append(item)
    return kept[::-1]


def figures_of(contents: Sequence[Item]) -> dict[str, tuple[Path, str]]:
    """The figures among the contents: key → file and caption."""
    return {item.key: (item.path, item.caption) for item in contents if isinstance(item, Figure)}


class _Reader(HTMLParser):
    """Walks through the page; what is written in an element is said when the element ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.items: list[Item] = []
        self._folder = folder
        self._open: list[str] = []
        self._text: list[str] = []
        self._links: list[str] = []
        self._caption = ""
        self._said: set[PurePosixPath] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            return
        self._open.append(tag)
        if tag in (*_HEADINGS, "p", "li", "figcaption"):
            self._text = []
        if tag in ("p", "li", "figure") and not self._within("figure"):
            self._links = []
        if tag == "figure":
            self._caption = ""
        href = dict(attrs).get("href")
        if tag == "a" and href and "main" in self._open and not self._within(*_UNSAID):
            self._links.append(href)

    def handle_data(self, data: str) -> None:
        if not self._within(*_UNSAID) and not ("figcaption" in self._open and "a" in self._open):
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._open:
            return
        if "main" in self._open and not self._within(*(set(_UNSAID) - {tag})):
            self._end(tag, " ".join("".join(self._text).split()))
        while self._open.pop() != tag:
            pass

    def _end(self, tag: str, text: str) -> None:
        if tag in _HEADINGS:
            self.items.append(Heading(int(tag[1]), text))
        elif tag == "figcaption":
            self._caption = text
        elif tag == "figure" or (tag in ("p", "li") and "figure" not in self._open):
            files = [PurePosixPath(link) for link in self._links if PurePosixPath(link).parts[:1] in _FOLDERS]
            for path in files:
                self._file(path)
            if tag != "figure" and text and not files:  # a paragraph with files is but their names
                self.items.append(Paragraph(text))

    def _file(self, path: PurePosixPath) -> None:
        """A figure's PNG or a table's Markdown, the first time it is linked to."""
        if path in self._said or ".." in path.parts or path.suffix not in (".png", ".md"):
            return
        self._said.add(path)
        file = self._folder / path
        if not file.is_file():
            raise UserError(f"{file} is missing, which the report shows: run invariance-report again")
        if path.suffix == ".png":
            self.items.append(Figure(path.stem, file, self._caption))
        else:
            self.items.append(TableText(path.stem, file.read_text(encoding="utf-8")))

    def _within(self, *tags: str) -> bool:
        return any(tag in self._open for tag in tags)
