"""Many texts as one piece of memory, so that no step after reading them costs Python's time for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import CacheError

__all__ = ["Texts"]


@dataclass(frozen=True)
class Texts:
    """`data` is each text's UTF-8 with a zero byte behind it, `lengths` [n] int64 the bytes of each without that."""

    data: bytes
    lengths: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Raises `CacheError` for what is not text, has no UTF-8 (lone surrogates) or holds a zero character."""
        try:
            return cls._joined("\0".join([*texts, ""]).encode(), len(texts))
        except (TypeError, UnicodeEncodeError) as error:
            raise CacheError(f"expected a list of texts, found something else ({error})") from error
        except ValueError:
            found = next(text for text in texts if "\0" in text)
            raise CacheError(f"expected texts without zero characters, found {found[:40]!r}") from None

    @classmethod
    def of_bytes(cls, texts: Sequence[bytes]) -> "Texts":
        """The same of UTF-8 texts without zero bytes."""
        return cls._joined(b"\0".join([*texts, b""]), len(texts))

    @classmethod
    def _joined(cls, data: bytes, count: int) -> "Texts":
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 0)
        if len(ends) != count:
            raise ValueError("a zero byte inside a text")
        return cls(data, np.diff(ends, prepend=-1) - 1)

    @classmethod
    def joined(cls, parts: "Sequence[Texts]") -> "Texts":
        """Several lists of texts as one."""
        return cls(b"".join(part.data for part in parts), np.concatenate([part.lengths for part in parts]))

    def __len__(self) -> int:
        return len(self.lengths)
