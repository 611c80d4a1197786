"""Reads the documentation: code blocks, shell commands, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!--(?P<note>[^\n]*)-->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)(?: *\{#([\w-]+)\})?$", re.M)
_KEYWORDS = {"do", "export"}


@dataclass(frozen=True)
class Block:
    """A fenced block; ``note`` is the comment right above it."""

    language: str
    code: str
    note: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["language"],
            match["code"],
            (match["note"] or "").strip(),
            text.count("\n", 0, match.start("code")) + 1,
        )
        for match in _BLOCK.finditer(text)
    ]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield where a command stands and its words, variables and loops of the page filled in."""
    variables: dict[str, str] = {}
    for block in blocks(page):
        if block.language == "bash":
            for words in _words_of_commands(block.code):
                filled = _fill_in(words, variables)
                if filled:
                    yield f"{page.name}:{block.line}", filled


def _words_of_commands(code: str) -> Iterator[list[str]]:
    code = re.sub(r"(^|\s)# .*$", "", code.replace("\\\n", " "), flags=re.M)
    code = code.replace("$(seqdistill fairseq-user-dir)", "USER_DIR")
    lexer = shlex.shlex(code, posix=True, punctuation_chars=";<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    words: list[str] = []
    is_redirected = False
    for token in lexer:
        if set(token) <= set(";|&\n"):
            if words:
                yield words
            words = []
        elif is_redirected:
            is_redirected = False
        elif token in ("<", ">"):
            is_redirected = True
        else:
            words.append(token)
    if words:
        yield words


def _fill_in(words: list[str], variables: dict[str, str]) -> list[str]:
    """Note assignments and loops in ``variables``; return what is left, the command."""
    if words[0] == "for":  # for NAME in FIRST …: the first turn stands for all
        variables[words[1]] = words[3]
        return []
    if words == ["done"]:
        return []
    while words and words[0] in _KEYWORDS:
        words = words[1:]
    while words and (match := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0], re.S)):
        variables[match[1]] = match[2]
        words = words[1:]
    filled = []
    for word in words:
        value = re.sub(r"\$(\w+)", lambda m: variables[m[1]], word)
        filled += value.split() if re.fullmatch(r"\$\w+", word) else [value]
    return filled


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and images, outside code."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", text))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs makes them."""
    from markdown.extensions.toc import slugify

    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {
        identifier or slugify(title.replace("`", ""), "-")
        for title, identifier in _HEADING.findall(text)
    }
