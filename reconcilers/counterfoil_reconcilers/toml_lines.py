"""Where in a TOML file a key stands, so that a refusal can name the line.

The standard parser gives values without places. This walks the text once, beside it: headers, keys and the
brackets of values that go on over several lines. It only serves messages; it decides nothing.
"""

import re

Location = tuple[str | int, ...]

_KEY = re.compile(r"""\s*(?:"((?:\\.|[^"\\])*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.)?""")


def line_of_keys(text: str) -> dict[Location, int]:
    """Every table and key of a valid TOML file with the line (from 1) on which it begins."""
    lines: dict[Location, int] = {}
    table: Location = ()
    counts: dict[Location, int] = {}
    waiting = _Open()
    for number, line in enumerate(text.splitlines(), 1):
        if waiting.goes_on(line):
            continue
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("["):
            repeated = stripped.startswith("[[")
            parts, _ = _keys(stripped[2 if repeated else 1 :])
            table = _resolve(parts, counts, repeated)
            _note(lines, table, number)
        else:
            parts, rest = _keys(stripped)
            location = (*table, *parts)
            _note(lines, location, number)
            if rest.startswith("="):
                _note_inline(lines, location, rest[1:], number)
            waiting.goes_on(rest)
    return lines


def nearest_line(lines: dict[Location, int], location: Location) -> int:
    """The line of the location, or of the closest table around it."""
    for length in range(len(location), 0, -1):
        if location[:length] in lines:
            return lines[location[:length]]
    return 1


def _note(lines: dict[Location, int], location: Location, number: int) -> None:
    for length in range(1, len(location) + 1):
        lines.setdefault(location[:length], number)


def _note_inline(lines: dict[Location, int], location: Location, value: str, number: int) -> None:
    if value.lstrip().startswith("{"):
        for match in re.finditer(r"[{,]\s*([A-Za-z0-9_-]+)\s*=", value):
            lines.setdefault((*location, match.group(1)), number)


def _keys(text: str) -> tuple[tuple[str, ...], str]:
    parts: list[str] = []
    position = 0
    while match := _KEY.match(text, position):
        parts.append(next(group for group in match.groups()[:3] if group is not None))
        position = match.end()
        if not match.group(4):
            break
    return tuple(parts), text[position:].lstrip()


def _resolve(parts: tuple[str, ...], counts: dict[Location, int], repeated: bool) -> Location:
    """A header's keys with the index of each array of tables that they pass through."""
    location: Location = ()
    for depth, part in enumerate(parts, 1):
        location = (*location, part)
        if depth == len(parts) and repeated:
            counts[location] = counts.get(location, -1) + 1
        if location in counts:
            location = (*location, counts[location])
    return location


class _Open:
    """Follows texts and brackets that are still open at the end of a line."""

    def __init__(self) -> None:
        self._fence = ""
        self._depth = 0

    def goes_on(self, line: str) -> bool:
        """Take in a line; True if it continued a value begun before it."""
        inside = bool(self._fence) or self._depth > 0
        position = 0
        while position < len(line):
            rest = line[position:]
            if self._fence:
                end = rest.find(self._fence)
                if end < 0:
                    return inside
                position += end + len(self._fence)
                self._fence = ""
                continue
            if rest.startswith("#"):
                break
            fence = next((f for f in ('"""', "'''") if rest.startswith(f)), "")
            if fence:
                self._fence = fence
                position += 3
                continue
            text = re.match(r'"(?:\\.|[^"\\])*"|' + r"'[^']*'", rest)
            if text:
                position += text.end()
                continue
            self._depth += rest[0] in "[{"
            self._depth -= rest[0] in "]}"
            position += 1
        return inside
