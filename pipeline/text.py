"""Text that came from elsewhere, made harmless where it is shown: terminals, spreadsheets and JSON readers."""

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["csv_cell", "json_text", "printable", "terminal"]

#: Control characters (C0, DEL, C1) but for newline and tab, those that reorder what stands beside them, and lone
#: surrogates, which have no encoding.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: What a spreadsheet takes for a formula at the start of a cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def _picture(match: "re.Match[str]") -> str:
    """A visible character, one column wide, in place of one that acts: Unicode's picture of it where there is any."""
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def printable(text: str) -> str:
    """The text with nothing in it that a terminal would act on; newlines and tabs stay."""
    return _CONTROLS.sub(_picture, text)


def csv_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: such a text gets an apostrophe in front (OWASP's advice)."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.startswith(_FORMULA) else printable(value)


def json_text(document: Any, indent: int | None = None) -> str:
    """Strict JSON: numbers that are not finite become null, and controls that JSON allows unescaped are escaped."""
    text = json.dumps(_strict(document), indent=indent, ensure_ascii=False, allow_nan=False)
    # Between strings JSON has newlines at most, which are none of these.
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return value


def terminal(**options: Any) -> "Console":
    """A console of rich's that shows every text as `printable` does, without markup; its own colours stay."""
    from rich.console import Console

    class Terminal(Console):
        def render_str(self, text: str, **style: Any) -> Any:  # before widths are measured
            return super().render_str(printable(text), **style)

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=printable(segment.text))

    return Terminal(**{"markup": False, "emoji": False} | options)
