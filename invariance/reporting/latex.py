"""Tables in LaTeX, for a document that loads array, booktabs and longtable."""

from collections.abc import Iterable, Sequence

_LONG = 40
"""Characters of a cell of words from which on its column breaks lines."""

_PAGE = 60
"""Lines of a table beyond which no page holds it."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "φ": r"$\varphi$",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≠": r"$\neq$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "‖": r"$\|$",
    "°": r"$^\circ$",
    "²": "$^2$",
    "³": "$^3$",
    "⁻": "$^-$",
    "⁴": "$^4$",
    "₁": "$_1$",
    "₂": "$_2$",
    "₃": "$_3$",
    "½": r"$\frac12$",
    "ρ": r"$\rho$",
    "–": "--",
    "—": "---",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "é": r"\'e",
}


def latex_text(text: str) -> str:
    """A text as LaTeX prints it: what has a meaning there escaped, Greek and signs as mathematics.

    What has no such form stays as it is, which LaTeX reads as UTF-8.
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex_table(
    name: str, caption: str, header: Sequence[str], cells: Sequence[Sequence[str]], text: Sequence[bool]
) -> str:
    """A table in LaTeX; one that no page holds goes on over several.

    Args:
        name: what its label ends on.
        caption: its caption.
        header: names of the columns.
        cells: the rows as text.
        text: which columns hold words rather than numbers.
    """
    longest = [max((len(row[k]) for row in cells), default=0) for k in range(len(header))]
    breaking = [k for k, words in enumerate(text) if (words or k == 0) and longest[k] > _LONG]
    columns = "".join(_column(k, text[k] or k == 0, breaking, longest) for k in range(len(header)))
    lines = sum(max([1, *(-(-len(row[k]) // _LONG) for k in breaking)]) for row in cells)
    titled = rf"\caption{{{latex_text(caption)}}}\label{{tab:{name}}}"
    head, body = [r"\toprule", _line(header), r"\midrule"], [*map(_line, cells), r"\bottomrule"]
    if lines > _PAGE:
        whole = [
            rf"\begin{{longtable}}{{{columns}}}",
            titled + r" \\",
            *head,
            r"\endfirsthead",
            *head,
            r"\endhead",
            *body,
            r"\end{longtable}",
        ]
    else:
        whole = [
            r"\begin{table}",
            r"\centering",
            titled,
            rf"\begin{{tabular}}{{{columns}}}",
            *head,
            *body,
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join([*whole, ""])


def _column(k: int, words: bool, breaking: Sequence[int], longest: Sequence[int]) -> str:
    """How LaTeX sets a column: words to the left, numbers to the right, long words in lines of a share of the width."""
    if k not in breaking:
        return "l" if words else "r"
    roots = {one: longest[one] ** 0.5 for one in breaking}
    width = 0.7 * roots[k] / sum(roots.values())
    return rf">{{\raggedright\arraybackslash}}p{{{width:.2f}\linewidth}}"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
