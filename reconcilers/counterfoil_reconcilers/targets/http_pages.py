"""How a list goes on, page by page, as the contract declares it; whatever looks like a circle is no answer."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from counterfoil_reconcilers.targets.http_answers import Answer
from counterfoil_reconcilers.targets.http_options import Pages
from counterfoil_reconcilers.targets.http_rows import Astray, places

_MOST_PAGES: Final = 10_000

Param = tuple[str, Any]


@dataclass(frozen=True)
class Page:
    """Which page: `params` go into the query, or into the body of a search; `url` None is the list's own."""

    url: str | None = None
    params: tuple[Param, ...] = ()


@dataclass
class Walk:
    """One walk through a list. `page` is the next to ask for; None: that was the last."""

    pages: Pages
    page: Page | None = None
    received: int = 0
    _seen: set[Page] = field(default_factory=set)
    _noted: set[Hashable] = field(default_factory=set)

    def __post_init__(self) -> None:
        start = self.pages.first if self.pages.first is not None else int(self.pages.style == "number")
        numbered = self.pages.style in ("number", "offset")
        self._go(Page(params=(*self._size(), *(((self.pages.param or "", start),) if numbered else ()))))

    def note(self, rows: Sequence[Hashable]) -> None:
        """Which rows a page showed. Raises Astray where one came twice and pages shift: another was passed over."""
        if self.pages.style in ("number", "offset") and (
            len(set(rows)) < len(rows) or not self._noted.isdisjoint(rows)
        ):
            raise Astray("showed a row twice; it changed while it was read")
        self._noted.update(rows)

    def advance(self, answer: Answer, items: Sequence[Any]) -> None:
        """On to the next page, from what the last one said. Raises Astray."""
        self.received += len(items)
        following = self._following(answer, items)
        if following is None:
            self._check_total(answer.document)
            self.page = None
        else:
            self._go(following)

    def _go(self, page: Page) -> None:
        if page in self._seen:
            raise Astray("leads back to a page that was read already")
        if len(self._seen) >= _MOST_PAGES:
            raise Astray(f"has more than {_MOST_PAGES} pages")
        self._seen.add(page)
        self.page = page

    def _following(self, answer: Answer, items: Sequence[Any]) -> Page | None:
        document = answer.document
        if self.pages.more is not None and not _one(self.pages.more, document):
            return None
        match self.pages.style:
            case "link":
                return _linked(answer.url, answer.next_link)
            case "next":
                return _linked(answer.url, _one(self.pages.at or "", document))
            case "cursor":
                return self._after(_one(self.pages.at or "", document))
            case "number" | "offset":
                return self._numbered(document, items)
        return None

    def _after(self, cursor: Any) -> Page | None:
        if cursor in (None, "", False):
            if self.pages.more is not None:
                raise Astray("says that there is more, and not where")
            return None
        if not isinstance(cursor, str | int):
            raise Astray("has a cursor that is no text")
        return Page(params=(*self._size(), (self.pages.param or "", cursor)))

    def _numbered(self, document: Any, items: Sequence[Any]) -> Page | None:
        total, last = _number(self.pages.total, document), _number(self.pages.last, document)
        [current] = [value for name, value in (self.page or Page()).params if name == self.pages.param]
        if not items or (total is not None and self.received >= total):
            return None
        if self.pages.style == "offset":
            return Page(params=(*self._size(), (self.pages.param or "", current + len(items))))
        if last is not None and current >= last:
            return None
        return Page(params=(*self._size(), (self.pages.param or "", current + 1)))

    def _check_total(self, document: Any) -> None:
        total = _number(self.pages.total, document)
        if total is not None and total != self.received:
            raise Astray(f"says that it has {total} rows and showed {self.received}; it changed while it was read")

    def _size(self) -> tuple[Param, ...]:
        return ((self.pages.size_param, self.pages.size),) if self.pages.size_param else ()


def _one(path: str, document: Any) -> Any:
    found = places(path, document)
    return found[0] if found else None


def _number(path: str | None, document: Any) -> int | None:
    if path is None:
        return None
    found = _one(path, document)
    if not isinstance(found, int) or isinstance(found, bool):
        raise Astray(f"has no number at {path}")
    return found


def _linked(url: httpx2.URL, following: Any) -> Page | None:
    """The next page's address; only ever on the same host, for our credentials go there."""
    if following in (None, "", False):
        return None
    if not isinstance(following, str):
        raise Astray("has a next address that is no text")
    try:
        joined = url.join(following)
    except (httpx2.InvalidURL, ValueError):
        raise Astray("has a next address that is none") from None
    if joined.userinfo or (joined.scheme, joined.host, joined.port) != (url.scheme, url.host, url.port):
        raise Astray("goes on at another host, where no credentials of ours are sent")
    return Page(url=str(joined))
