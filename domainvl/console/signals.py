"""Ctrl-C and SIGTERM as an exception that passes through Lightning."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Gate:
    """Whether a signal has to wait, and the one that does."""

    held = False
    waiting: int | None = None


_gate = _Gate()


class Interrupted(BaseException):
    """Somebody asked this process to stop.

    It is no KeyboardInterrupt, because Lightning answers that one with exit status 1, and no Exception, because no
    library is meant to handle it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted at the first signal; the second one ends the process the usual way."""
    owner = os.getpid()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A forked data loader worker inherits the handler; torch's worker loop knows this exception.
            raise KeyboardInterrupt
        if _gate.held and _gate.waiting is None:
            _gate.waiting = number
            return
        _restore(before)
        raise Interrupted(number)

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    except SystemExit:
        # Lightning hears of SIGTERM too, and ends the epoch in its own way while the signal waits here.
        if _gate.waiting is None:
            raise
        raise Interrupted(_gate.waiting) from None
    finally:
        _gate.held, _gate.waiting = False, None
        _restore(before)


def hold() -> None:
    """Let the first signal wait until `release`: what happens in between belongs together."""
    _gate.held = True


def release() -> None:
    """End `hold`; raise Interrupted if a signal came meanwhile."""
    _gate.held = False
    if _gate.waiting is not None:
        raise Interrupted(_gate.waiting)


def _restore(handlers: Mapping[signal.Signals, object]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
