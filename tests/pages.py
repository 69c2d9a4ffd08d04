"""A page as a strict reader sees it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_EMPTY = ("meta", "img", "link", "br")
_LOADING = ("src", "href", "srcset", "data", "poster", "action", "xlink:href")


class PageReader(HTMLParser):
    """Collects tags with their attributes, and the text; fails where tags do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind."""
        return [found for name, found in self.tags if name == tag]

    def values(self, attribute: str) -> list[str]:
        """Return what an attribute is, wherever it is given."""
        return [found[attribute] or "" for _, found in self.tags if attribute in found]


def read_page(page: str) -> PageReader:
    """Read a page and hold what every page of ours keeps: it loads nothing and runs nothing."""
    reader = PageReader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    kinds = {tag for tag, _ in reader.tags}
    assert not kinds & {"script", "iframe", "object", "embed", "base", "form"}
    for name in _LOADING:
        for value in reader.values(name):
            assert value.startswith(("#", "data:image/jpeg;base64,")) or value == "data:,", value
    assert not any(name.startswith("on") or name == "style" for _, f in reader.tags for name in f)
    assert not re.search(r"url\(|@import", page)
    ids = reader.values("id")
    assert len(set(ids)) == len(ids)
    for link in reader.values("href"):
        assert not link.startswith("#") or link[1:] in ids, link
    return reader
