"""What README.md and the pages of docs/ have in common for their tests: which they are, their blocks, their links."""

import pathlib
import re
from dataclasses import dataclass

FENCE = re.compile(r"^(\s*)```(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its first line's number and its text."""

    language: str
    line: int
    text: str


def pages(root):
    """What a user reads, as paths relative to `root`."""
    root = pathlib.Path(root)
    found = [root / name for name in ("README.md", "app/python/README.md", "app/engines/vllm/README.md")]
    return [path.relative_to(root) for path in found + sorted((root / "docs").glob("*.md"))]


def others(root):
    """The pages beside them, whose links count too."""
    root = pathlib.Path(root)
    found = [root / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md", "tests/data/README.md", "scripts/integration/README.md")]
    return [path.relative_to(root) for path in found + sorted((root / "results").rglob("*.md"))]


def blocks(text):
    """The fenced blocks of a page."""
    found, inside, start, lines = [], None, 0, []
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if fence and inside is None:
            inside, start, lines = fence[2], number + 1, []
        elif fence:
            found.append(Block(inside, start, "\n".join(lines) + "\n"))
            inside = None
        elif inside is not None:
            lines.append(line)
    return found


def prose(text):
    """The page without its fenced blocks."""
    kept, inside = [], False
    for line in text.splitlines():
        if FENCE.match(line):
            inside = not inside
        kept.append("" if inside or FENCE.match(line) else line)
    return "\n".join(kept)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    found, seen = set(), {}
    for line in prose(text).splitlines():
        heading = re.match(r"#{1,6} (.*)", line)
        if not heading:
            continue
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def links(text):
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))


def spans(text):
    """What stands in back quotes in a page's prose."""
    return re.findall(r"`([^`\n]+)`", prose(text))
