"""Ctrl-C and SIGTERM as an exception that passes through Lightning."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        _restore(before)
        raise Interrupted(number)

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, object]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
