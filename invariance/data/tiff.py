"""Which page of a TIFF is its picture, and whether Pillow reads its form as the file means it."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from invariance.errors import BrokenImage

PREFIXES = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, PHOTOMETRIC, BITS, EXTRA, COLOUR_MAP = 0, 262, 258, 338, 320
_SUBFILE, _OLD_SUBFILE, _SUB_DIRECTORIES = 254, 255, 330
_MOST_PAGES = 10_000
_THUMBNAIL = 512  # pixels of its longer side, at most, where a file does not say that its first page is one
_RGB, _PALETTE, _CMYK, _YCBCR = 2, 3, 5, 6
_COLOURS = {
    0: "gray",
    1: "gray",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    8: "Lab",
    9: "Lab",
    10: "Lab",
    32803: "camera mosaic",
    32844: "LogL",
    32845: "LogLuv",
    34892: "camera raw",
}
_SAMPLES = {_RGB: 3, _CMYK: 4, _YCBCR: 3}
_NUMBERS = {1: "", 2: " signed", 3: " floating-point"}
_RAW, _FAX, _OLD_JPEG = 1, (2, 3, 4), 6
_JFIF = (0.299, 0.587, 0.114)


def picture(data: bytes) -> int:
    """The page that is the picture: the first, unless the file calls it a thumbnail or a mask of a later one.

    Args:
        data: bytes of a TIFF.

    Raises:
        BrokenImage: if no page is certain to be the picture, or it is of a form that Pillow would read otherwise.
    """
    pages = _pages(data)
    first = next(pages, None)
    if first is None:
        return 0
    if not _secondary(first):
        _refuse_thumbnail(first, pages)
        _refuse(first)
        return 0
    for number, page in enumerate(pages, 1):
        if not _secondary(page):
            _refuse(page)
            return number
        first = None
    if first is None or _SUB_DIRECTORIES in first:
        raise BrokenImage("is a TIFF that holds thumbnails or masks alone where its picture should be: not supported")
    _refuse(first)
    return 0


def described(data: bytes) -> str:
    """A TIFF's form in words, of its first page."""
    page = next(_pages(data), None)
    return "a TIFF" if page is None else str(_Form.of(page))


def _pages(data: bytes) -> Iterator[ImageFileDirectory_v2]:
    file = io.BytesIO(data)
    head = file.read(8)
    head += file.read(8) if head[2:3] == b"+" or head[3:4] == b"+" else b""
    place, seen = ImageFileDirectory_v2(head).next, set[int]()
    while place and place not in seen and len(seen) < _MOST_PAGES:
        seen.add(place)
        file.seek(place)
        page = ImageFileDirectory_v2(head)
        page.load(file)
        yield page
        place = page.next


def _secondary(page: ImageFileDirectory_v2) -> bool:
    """Whether a page says that it is a smaller copy of another, or a mask."""
    return bool(page.get(_SUBFILE, 0) & 0b101) or page.get(_OLD_SUBFILE) == 2


def _refuse_thumbnail(first: ImageFileDirectory_v2, rest: Iterator[ImageFileDirectory_v2]) -> None:
    """Refuse a small first page before a page of the same shape and at least twice its size."""
    width, height = _side(first, 256), _side(first, 257)
    if not 0 < max(width, height) <= _THUMBNAIL:
        return
    for number, page in enumerate(rest, 2):
        wide, high = _side(page, 256), _side(page, 257)
        if not _secondary(page) and wide >= 2 * width and abs(wide * height - high * width) <= max(wide, high):
            raise BrokenImage(
                f"is a TIFF whose first page ({width}×{height} pixels) may be a thumbnail of page {number} "
                f"({wide}×{high}): not supported; keep the page that is meant"
            )


def _side(page: ImageFileDirectory_v2, tag: int) -> int:
    value = page.get(tag, 0)
    return value if isinstance(value, int) else 0


@dataclass(frozen=True)
class _Form:
    """How a page keeps its pixels."""

    colour: int | None
    samples: int
    bits: tuple[int, ...]
    numbers: tuple[int, ...]
    extra: tuple[int, ...]
    planes: bool
    raw: bool
    turned: bool

    @classmethod
    def of(cls, page: ImageFileDirectory_v2) -> "_Form":
        """The form that a page says it has."""
        compression, colour = page.get(259, _RAW), page.get(PHOTOMETRIC)
        if compression == _OLD_JPEG:
            colour = _YCBCR
        elif colour is None and compression in _FAX:
            colour = WHITE_IS_ZERO
        bits, samples = _several(page.get(BITS, 1)), page.get(277, 1)
        return cls(
            colour,
            samples,
            bits,
            _several(page.get(339, 1)),
            _several(page.get(EXTRA, ())),
            page.get(284, 1) == 2,
            compression == _RAW,
            page.get(266, 1) == 2,
        )

    def __str__(self) -> str:
        colour = "no colour named" if self.colour is None else _COLOURS.get(self.colour, f"colour {self.colour}")
        numbers = " and".join(dict.fromkeys(_NUMBERS.get(n, f" unknown ({n})") for n in self.numbers))
        bits = "/".join(map(str, dict.fromkeys(self.bits)))
        alpha = " with transparency" if set(self.extra) & {1, 2} else ""
        return f"a TIFF ({colour}{alpha}, {self.samples} × {bits} bit{numbers}{' in planes' if self.planes else ''})"


def _several(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _refuse(page: ImageFileDirectory_v2) -> None:
    form = _Form.of(page)
    known = form.colour in (0, 1, _RGB, _PALETTE, _CMYK, _YCBCR) and 2 not in form.numbers
    if not known or (form.planes and not _planes_are_read(form)):
        raise BrokenImage(f"is {form}, which is not supported")
    if form.colour == _CMYK and page.get(332, 1) != 1:
        raise BrokenImage(f"is {form} of other inks than CMYK, which is not supported")
    if form.colour == _YCBCR and form.raw and not _plain_ycbcr(page):
        raise BrokenImage(f"is {form}, subsampled or of other weights than JPEG's, which is not supported")


def _planes_are_read(form: _Form) -> bool:
    """Pillow takes the raw form of a plane by one letter, and loses transparency beside gray or a palette."""
    plain = not form.raw or (set(form.bits) == {8} and not form.turned)
    if form.colour in (_RGB, _CMYK):
        return plain and form.samples == _SAMPLES[form.colour] + len(form.extra)
    return (plain and not set(form.extra) & {1, 2}) and not (form.raw and form.colour == WHITE_IS_ZERO)


def _plain_ycbcr(page: ImageFileDirectory_v2) -> bool:
    weights = tuple(round(float(w), 3) for w in page.get(529, _JFIF))
    black_and_white = tuple(map(float, page.get(532, (0, 255, 128, 255, 128, 255))))
    return (
        tuple(page.get(530, (2, 2))) == (1, 1) and weights == _JFIF and black_and_white == (0, 255, 128, 255, 128, 255)
    )
