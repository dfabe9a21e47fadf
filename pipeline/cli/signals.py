"""An interrupt (Ctrl-C, SIGTERM) at any moment ends a command in one line, without a traceback.

The first becomes a `KeyboardInterrupt`, so that contexts close and work that is done is kept; a second, one that
Python cannot deliver, and one that comes outside a command end the process at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

__all__ = ["INTERRUPTED", "arm", "interrupted", "run"]

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds that the first interrupt may take to end the command.
PATIENCE = 10.0
_state = {"interrupted": False}


def leave(*_: Any) -> NoReturn:
    """End the process now, in one line unless one was written."""
    if not _state["interrupted"]:
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def arm() -> None:
    """Let an interrupt end this process in a line from now on; does nothing outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        for one in _SIGNALS:
            if signal.getsignal(one) is not signal.SIG_IGN:
                signal.signal(one, leave)


def interrupted() -> bool:
    """Whether an interrupt came; libraries may have turned its exception into another."""
    return _state["interrupted"]


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as signal handlers are called
    for one in _SIGNALS:
        signal.signal(one, leave)
    _state["interrupted"] = True
    timer = threading.Timer(PATIENCE, leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _unraisable(previous: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def hook(about: Any) -> None:
        if not issubclass(about.exc_type, KeyboardInterrupt):
            previous(about)
            return
        # In a callback or a destructor, where Python would print a traceback and go on.
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)

    return hook


def run(command: Callable[[], Any]) -> NoReturn:
    """Run a command line as this process's only work, and end the process as it says."""
    if threading.current_thread() is threading.main_thread():
        for one in _SIGNALS:
            if signal.getsignal(one) is not signal.SIG_IGN:
                signal.signal(one, _interrupt)
    sys.unraisablehook = _unraisable(sys.unraisablehook)
    status: Any = 0
    try:
        command()
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        status = INTERRUPTED
    except SystemExit as end:
        status = end.code
    if status != INTERRUPTED:
        arm()
        sys.exit(status)
    # Not through the interpreter's end, where threads that still run would be heard of.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(INTERRUPTED)
