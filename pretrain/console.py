"""Output that outlives its terminal: a closed ssh connection or pipe must not keep a run from saving."""

import os
from contextlib import suppress
from typing import Any, TextIO, cast


class _Lasting:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._discard()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Nobody listens any more: what is still buffered goes nowhere; Python would end with status 120 for it."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO) -> TextIO:
    """The stream, but what can no longer be written is dropped. (rich would end the process.)"""
    return cast(TextIO, _Lasting(stream))
