"""One small hierarchy of exceptions.

The command lines turn every :class:`KanglueError` into one line on standard error and exit status 1, so each message
says what was expected, what was found (file and line where there is one) and what to do. Messages name options as
Python does, between backticks: `` `grid_epochs` ``, `` `scale='none'` ``; the command lines turn them into flags.
"""


class KanglueError(Exception):
    """Base of every error that a user can cause or mend."""


class UnknownNameError(KanglueError):
    """A name that a registry (tasks, encoders, heads, features, splits) does not hold."""

    def __init__(self, kind: str, name: str, valid: "tuple[str, ...] | list[str]", hint: str = "") -> None:
        super().__init__(f"unknown {kind} {name!r}: expected one of {', '.join(valid)}{'; ' + hint if hint else ''}")


class SourceError(KanglueError):
    """Rows that cannot be read as what they were said to be."""


class EncoderError(KanglueError):
    """An encoder that cannot be loaded or must not be used as asked."""


class DeviceError(KanglueError):
    """A device that was asked for and is not there, or that ran out of memory."""


class CacheError(KanglueError):
    """A cache file that is missing, unfinished, damaged or not a cache."""


class CacheMismatchError(CacheError):
    """A cache file that holds something else than what was asked for."""


class ConfigError(KanglueError):
    """Options that contradict one another or lie outside their range."""


class UnmatchedError(ConfigError):
    """A budget that no width of a family comes near enough to."""


class ResultsError(KanglueError):
    """A results database or a saved head that cannot be read."""
