"""Markup away: a document of any kind into its paragraphs of prose.

Code, tables, headings, images and comments go; the words of links, emphasis, lists and notes stay. The
readers are line by line and forgiving: broken markup costs words, it never raises.
"""

import ast
import html
import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser

__all__ = ["kind_of", "paragraphs_of"]

_SUFFIXES = {
    ".md": "markdown", ".markdown": "markdown", ".mdx": "markdown", ".rst": "rst", ".rest": "rst",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".py": "python",
}  # fmt: skip
_LIST_ITEM = re.compile(
    r"\s*(?:[-*+\u00b7\u2013\u2022\u2023]|o(?=\s\s)|\(?(?:\d{1,3}|[a-z#]|[ivx]{1,4})[.)])\s+(?=\S)"
)
_RULE = re.compile(r"\s*([-=*_~^\"'#+.:`])(?:\s*\1){2,}\s*")
_LONG_LINE = 200  # no table, heading or page foot is so long, and some patterns are slow on longer ones
_GAPS = re.compile(r"\S {3,}(?=\S)")


def kind_of(name: str, text: str) -> str:
    """Return `markdown`, `rst`, `html`, `python` or `text`, from the name or else from the text itself."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    head = text[:20_000]
    if re.match(r"\s*(?:<!doctype html|<html|<\?xml[^>]*>\s*<html)", head, re.IGNORECASE):
        return "html"
    if re.search(r"^\.\. [\w-]+::|^\S.*\n(=|-|~){4,}\n\n.*::$", head, re.MULTILINE):
        return "rst"
    if re.search(r"^```|^#{1,6} \w|\]\(\w", head, re.MULTILINE):
        return "markdown"
    return "text"


def paragraphs_of(text: str, kind: str) -> list[str]:
    """Return the paragraphs of a document, each on one line, in the order in which they stand."""
    blocks = _READERS[kind](text.expandtabs(4).replace("\r\n", "\n").replace("\r", "\n"))
    return [paragraph for block in blocks if (paragraph := _one_line(block))]


def _one_line(block: str) -> str:
    joined = re.sub(r"(?<=\w)-\n\s*(?=[a-zäöüß])", "-", block).replace("\u00ad", "").replace("\u200b", "")
    return re.sub(r" ([,.)])(?=\s|$)", r"\1", " ".join(joined.split()))


def _joined(lines: Iterable[str], *, by_indent: bool = False) -> Iterator[str]:
    """Yield blocks of lines: a blank line or a list marker begins a new one, so may another indentation."""
    block: list[str] = []
    indent: int | None = None  # None inside a list item, whose lines may be indented in any way
    for line in lines:
        item = _LIST_ITEM.match(line)
        own_indent = len(line) - len(line.lstrip())
        if block and (item or not line.strip() or (by_indent and indent not in (None, own_indent))):
            yield "\n".join(block)
            block = []
        if line.strip():
            indent = indent if block else None if item else own_indent
            block.append(line[item.end() :] if item else line)
    if block:
        yield "\n".join(block)


def _substituted(block: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        block = pattern.sub(replacement, block)
    return block


# Markdown: CommonMark's blocks as far as prose needs them, and the tables and notes of GitHub and MkDocs.

_MD_FENCE = re.compile(r"\s*(?:>\s*)?(`{3,}|~{3,})")
_MD_NOT_PROSE = re.compile(
    r"\s{0,3}#{1,6}(?:\s|$)|\s*\|.*|\s{0,3}\[[^\]]+\]:\s|\s*(?:!!!|\?\?\?|:::)|\s*\[!\w+\]\s*$|\s*<[^>]+>\s*$"
)
_MD_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.{1,1000}?)(?<!`)\1(?!`)", re.DOTALL)
_MD_INLINE: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"<!--.{0,500}?-->", re.DOTALL), ""),
    (re.compile(r"!\[[^\]]{0,300}\](?:\([^)]{0,500}\)|\[[^\]]{0,300}\])"), ""),
    (re.compile(r"\[\^[^\]]+\]"), ""),
    (re.compile(r"\[([^\[\]]*)\]\((?:[^()]|\([^()]*\))*\)"), r"\1"),
    (re.compile(r"\[([^\[\]]+)\]\[[^\]]*\]"), r"\1"),
    (re.compile(r"<((?:https?|mailto):[^>\s]+)>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), " "),
    (re.compile(r"(\*{1,3}|~~)(?=\S)(.{1,500}?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<!\w)(_{1,3})(?=\S)(.{1,500}?)(?<=\S)\1(?!\w)", re.DOTALL), r"\2"),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
]


def _markdown(text: str) -> Iterator[str]:
    text = re.sub(r"\A---\n.*?\n(?:---|\.\.\.)\n", "", text, flags=re.DOTALL)
    for block in _joined(_markdown_lines(text.split("\n"))):
        yield _markdown_inline(block)


def _markdown_lines(lines: list[str]) -> Iterator[str]:
    """Yield the lines of prose; a blank one where something was left out."""
    end: re.Pattern[str] | None = None  # of the code or HTML that the line stands in
    in_list, before = False, ""
    for line in _without_setext_and_tables(lines):
        opened = _markdown_end(line) if end is None else None
        closing = end or opened
        if closing:
            end = None if closing.search(line, pos=4 if opened else 0) else closing
            before = ""
            yield ""
            continue
        if not in_list and not before.strip() and line.startswith("    "):
            yield ""
            continue  # still "after a blank line": the next indented line is code too
        in_list = bool(_LIST_ITEM.match(line)) or (in_list and (not line.strip() or line.startswith("  ")))
        before = line
        quoted = re.sub(r"^(?:\s{0,3}>\s?)+", "", line)
        yield "" if _MD_NOT_PROSE.match(quoted) or _RULE.fullmatch(quoted) else _without_box(quoted)


def _markdown_end(line: str) -> re.Pattern[str] | None:
    """Return what ends the code or the HTML that this line begins, if it begins any."""
    if fence := _MD_FENCE.match(line):
        return re.compile(rf"^[\s>]*{fence[1]}[{fence[1][0]}]*\s*$")
    if tag := re.match(r"\s{0,3}<(script|style|table|pre|textarea)\b", line, re.IGNORECASE):
        return re.compile(f"</{tag[1]}>", re.IGNORECASE)
    return re.compile("-->") if re.match(r"\s{0,3}<!--", line) else None


def _without_box(line: str) -> str:
    return re.sub(r"^(\s*[-*+]\s+)\[[ xX]\]\s", r"\1", line)


def _without_setext_and_tables(lines: list[str]) -> list[str]:
    kept = list(lines)
    in_table = False
    for at, line in enumerate(lines):
        if _MD_FENCE.match(line):  # what it holds may begin with "---", and the fence must stay to be seen
            continue
        below = lines[at + 1] if at + 1 < len(lines) else ""
        delimiter = "|" in below and re.fullmatch(r"\s*[|:\- ]+", below) and "-" in below
        in_table = bool(delimiter and "|" in line) or (in_table and "|" in line)
        if in_table or (re.fullmatch(r"\s{0,3}(=+|-{2,})\s*", below) and not (at and lines[at - 1].strip())):
            kept[at] = ""
    return kept


def _markdown_inline(block: str) -> str:
    spans: list[str] = []

    def hide(match: re.Match[str]) -> str:
        spans.append(match[2].strip())
        return f"\ue000{len(spans) - 1}\ue001"  # private-use marks: emphasis must not look into code

    block = _MD_CODE_SPAN.sub(hide, block.replace("\ue000", "").replace("\ue001", ""))
    block = html.unescape(_substituted(block, _MD_INLINE))
    return re.sub(r"\ue000(\d+)\ue001", lambda match: spans[int(match[1])], block)


# reStructuredText: the directives whose body is prose keep it, all others go with all that is indented below.

_RST_PROSE = frozenset({
    "note", "warning", "tip", "important", "caution", "danger", "attention", "hint", "admonition",
    "seealso", "versionadded", "versionchanged", "deprecated", "topic", "sidebar", "epigraph",
    "container", "rubric", "compound", "function", "class", "method", "attribute", "data", "module",
    "exception", "describe", "option", "program", "decorator", "envvar", "opcode", "confval",
    "cmdoption", "staticmethod", "classmethod", "property", "type", "c:function", "c:type",
    "c:macro", "c:var", "c:member", "py:function", "py:class", "py:method", "py:attribute",
    "py:data"
})  # fmt: skip
_RST_DIRECTIVE = re.compile(r"(\s*)\.\.(?:\s+(?:\|[^|]+\|\s+)?([\w:+-]+?)::(?:\s+(.*))?|\s.*|$)")
_RST_BLOCK = re.compile(r"\s*(?:\+[-=]+\+|={2,}\s+=|>>> )")
_RST_INLINE: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r":[\w:+.-]{1,40}:`([^`<]+?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+.-]{1,40}:`~(?:[\w]+\.)*(\w+)`"), r"\1"),
    (re.compile(r":[\w:+.-]{1,40}:`[!.]?([^`]+)`"), r"\1"),
    (re.compile(r"``(.{1,500}?)``", re.DOTALL), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{0,2}"), r"\1"),
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\s?\[[\w#*-]+\]_"), ""),
    (re.compile(r"\|[\w -]+\|_{0,2}"), ""),
    (re.compile(r"(?<![\w*])(\*{1,2})(?=\S)(.{1,500}?)(?<=\S)\1(?!\w)", re.DOTALL), r"\2"),
    (re.compile(r"(?<=\w)_{1,2}(?=[\s.,;:)]|$)"), ""),
    (re.compile(r"\\(\S)"), r"\1"),
    (re.compile(r"::(?=\s*$)"), ":"),
]


def _rst(text: str) -> Iterator[str]:
    for block in _joined(_rst_lines(text.split("\n")), by_indent=True):
        yield _substituted(block, _RST_INLINE)


def _rst_lines(lines: list[str]) -> Iterator[str]:
    """Yield the lines of prose; a blank one where something was left out."""
    hidden: int | None = None  # all that is indented deeper than this is no prose
    in_block = ends_in_literal = False  # a block: a table or a doctest, up to the next blank line
    for at, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        below = lines[at + 1] if at + 1 < len(lines) else ""
        if hidden is not None and (not line.strip() or indent > hidden):
            yield ""
            continue
        hidden = None
        directive = _RST_DIRECTIVE.match(line)
        field = re.match(r"\s*:[^:`]+:(?:\s|$)", line)
        if field or (directive and directive[2] not in _RST_PROSE):
            hidden = indent
        in_block = bool(line.strip()) and (in_block or bool(_RST_BLOCK.match(line)))
        ends_in_literal = line.rstrip().endswith("::") and not directive
        if ends_in_literal:
            hidden = indent
        gone = directive or in_block or (hidden is not None and not ends_in_literal)
        yield "" if gone or _is_rst_heading(line, below) else line


def _is_rst_heading(line: str, below: str) -> bool:
    underlined = bool(_RULE.fullmatch(below)) and len(below.rstrip()) >= len(line.strip()) - 1
    return bool(_RULE.fullmatch(line)) or (underlined and bool(line.strip()))


# Plain text: RFCs, licences, letters. What is set in columns or drawn is left out, what is indented stays.

_TEXT_NOT_PROSE = re.compile(r".*\.{4,}\s*[\divx]*\s*$|.*(?: \.){4,}|\s*[$>%#] \S|\s*>>> ")
_PAGE_END = re.compile(r".*\[Page \d+\]\s*$")
_PAGE_TOP = re.compile(r"RFC \d+\s.*\d{4}\s*$|\s*$")


def _plain(text: str) -> Iterator[str]:
    lines = _without_page_breaks(text.replace("\f", "\n").split("\n"))
    return _joined("" if _is_drawn(line) else line for line in lines)


def _without_page_breaks(lines: list[str]) -> list[str]:
    """Return the lines without the foot of a page and the head of the next; a paragraph goes on across."""
    kept: list[str] = []
    between_pages = False
    for line in lines:
        if _PAGE_END.match(line[:_LONG_LINE]):
            between_pages = True
        elif not between_pages or not _PAGE_TOP.match(line[:_LONG_LINE]):
            while between_pages and kept and not kept[-1].strip():
                kept.pop()
            if between_pages and not line.lstrip()[:1].islower():
                kept.append("")
            between_pages = False
            kept.append(line)
    return kept


def _is_drawn(line: str) -> bool:
    bare = line.strip()
    if len(line) < _LONG_LINE and (_TEXT_NOT_PROSE.match(line) or len(_GAPS.findall(bare)) >= 2):
        return True
    drawn = sum(not (character.isalnum() or character in " .,;:'\"()-!?") for character in bare)
    return drawn > 0.35 * len(bare) or bool(_RULE.fullmatch(line))


_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _python(text: str) -> Iterator[str]:
    """Yield the paragraphs of the docstrings of a module; none where it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for docstring in _docstrings(tree):
        yield from _rst(docstring)


def _docstrings(node: _Documented) -> Iterator[str]:
    """Yield those of the module and of all in it that is public, in the order of the source."""
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, _DEFINITIONS) and not child.name.startswith("_"):
            yield from _docstrings(child)


class _Prose(HTMLParser):
    """Collects the text between block tags; `code`, tables, headings and page furniture are left out."""

    HIDDEN = frozenset({
        "script", "style", "head", "nav", "header", "footer", "aside", "pre", "table", "h1", "h2", "h3",
        "h4", "h5", "h6", "form", "button", "select", "svg", "math", "template", "noscript", "figure",
        "iframe", "textarea", "title", "dt"
    })  # fmt: skip
    INLINE = frozenset({
        "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "dfn", "em", "font", "i", "img", "kbd",
        "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u", "var",
        "wbr"
    })  # fmt: skip

    def __init__(self, hidden: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._hidden = hidden
        self.blocks: list[str] = [""]
        self._hidden_by = ""
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("body", "main"):  # the end tag of `head` may be left out
            self._hidden_by = ""
        if self._hidden_by:
            self._depth += tag == self._hidden_by
        elif tag in self._hidden or (tag == "a" and ("class", "headerlink") in attrs):
            self._hidden_by, self._depth = tag, 1
        if tag not in self.INLINE:
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden_by:
            self._depth -= tag == self._hidden_by
            self._hidden_by = self._hidden_by if self._depth else ""
        if tag not in self.INLINE:
            self.blocks.append("")

    def handle_data(self, data: str) -> None:
        if not self._hidden_by:
            self.blocks[-1] += data


def _html(text: str) -> Iterator[str]:
    text = re.sub(r"<!--.*?(?:-->|\Z)", "", text, flags=re.DOTALL)  # slow in the parser where it has no end
    blocks = _html_blocks(text, _Prose.HIDDEN)
    if not any(map(str.strip, blocks)):  # an old page that is laid out by a table
        blocks = _html_blocks(text, _Prose.HIDDEN - {"table"})
    return iter(blocks)


def _html_blocks(text: str, hidden: frozenset[str]) -> list[str]:
    reader = _Prose(hidden)
    reader.feed(text)
    reader.close()
    return reader.blocks


_READERS: dict[str, Callable[[str], Iterator[str]]] = {
    "markdown": _markdown, "rst": _rst, "html": _html, "python": _python, "text": _plain,
}  # fmt: skip
