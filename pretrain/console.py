"""Output that outlives its terminal: a closed ssh connection or pipe must not keep a run from saving."""

from contextlib import suppress
from typing import Any, TextIO, cast


class _Lasting:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):  # nobody listens any more
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO) -> TextIO:
    """The stream, but what can no longer be written is dropped. (rich would end the process.)"""
    return cast(TextIO, _Lasting(stream))
