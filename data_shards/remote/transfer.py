"""Bytes behind a URL, through fsspec, with patience: what passes is tried again from where it broke off.

Errors that will not pass by waiting (nothing there, no access, a package missing) end at once and say what to do.
"""

import random
import re
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec

from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.remote.urls import packages_hint

CHUNK_BYTES = 1 << 23
ATTEMPTS = 6
"Failures in a row, without a new byte between them, after which a transfer is given up."
FIRST_WAIT_S = 0.5
"Before the second attempt; each further wait is twice as long."
SILENCE_S = 60.0
"Without a byte from an HTTP server, a connection counts as broken."

_JITTER = random.SystemRandom()  # of its own: a run's seeded generators stay as they are
_PASSING = {408, 425, 429}
"HTTP states of the 4xx kind that are worth another try."
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "RefreshError",
}


class NothingThere(DatasetError):
    """No file is at a URL."""


class _Lasting(Exception):
    """What another attempt would meet again."""


def append_rest(url: str, file: BinaryIO, size: int) -> None:
    """Append to `file`, open for appending without a buffer, what it lacks of the `size` bytes at `url`.

    A file that cannot be continued begins anew. Raises DatasetError when the URL cannot be read, or holds more or less,
    and the OSError of a disk that refuses.
    """
    if file.tell() > size:
        file.truncate(0)
        file.seek(0)
    for place, data in _patiently(url, file.tell(), size):
        if place != file.tell():
            file.truncate(place)
            file.seek(place)
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


def read_all(url: str, limit: int) -> bytes:
    """Return everything at a URL, `limit` bytes at most. Raises NothingThere, or DatasetError for other trouble."""
    collected = bytearray()
    for place, data in _patiently(url, 0, None):
        del collected[place:]
        collected += data
        if len(collected) > limit:
            raise DatasetError(f"{url}: more than {limit} bytes, which is too many for what it should be")
    return bytes(collected)


def size_of(url: str) -> int | None:
    """Return the bytes that a file at a URL has, None where the server does not tell."""
    failures = 0
    while True:
        try:
            filesystem, path = _filesystem(url)
            filesystem.invalidate_cache()
            return filesystem.info(path)["size"]
        except Exception as error:
            failures += 1
            _wait_or_raise(url, error, failures)


def names_beside(url: str) -> list[str]:
    """Return the names of what lies in the folder of a URL; an empty list for HTTP, which has no folders."""
    filesystem, path = _filesystem(url)
    if _is_http(url):
        return []
    filesystem.invalidate_cache()
    return sorted(entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(path, detail=False))


def _patiently(url: str, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield (place, bytes) from byte `start` to `stop` (None: the end), over as many attempts as it takes.

    A place before the one that was due means that the server began again.
    """
    place, failures = start, 0
    while stop is None or place < stop:
        try:
            for begin, data in _attempt(url, place if stop is not None else 0, stop):
                yield begin, data
                place, failures = begin + len(data), 0
            if stop is None:
                return
            if place < stop:
                raise EOFError(f"the connection ended after {place} of {stop} bytes")
        except Exception as error:  # whatever a back end raises; what the caller does with the bytes is not in here
            failures += 1
            _wait_or_raise(url, error, failures)


def _attempt(url: str, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    filesystem, path = _filesystem(url)
    if _is_http(url):
        yield from _over_http(filesystem, path, start, stop)
    elif stop is None:
        filesystem.invalidate_cache()
        yield 0, filesystem.cat_file(path)
    else:
        while start < stop and (data := filesystem.cat_file(path, start=start, end=min(start + CHUNK_BYTES, stop))):
            yield start, data
            start += len(data)


def _over_http(filesystem: Any, url: str, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """One request for all that is left, as a stream: memory is bounded whatever the server sends."""
    import aiohttp

    headers = {**filesystem.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if stop is not None:
        headers["Range"] = f"bytes={start}-{stop - 1}"
    patience = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    # with a size given, fsspec does not ask for it first
    with filesystem.open(url, block_size=0, size=stop or 1, headers=headers, timeout=patience) as response:
        place = start if response.r.status == 206 else 0  # 200: a server without ranges sends all of it
        if stop is not None:
            _check_length(response.r, start, stop)
        while stop is None or place < stop:
            data = response.read(CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - place))
            if not data:
                return
            yield place, data
            place += len(data)


def _check_length(response: Any, start: int, stop: int) -> None:
    """Compare what a response says of itself with what was asked for, and with the size that the file should have."""
    total = response.headers.get("Content-Length") if "Content-Encoding" not in response.headers else None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise OSError(f"asked for bytes from {start} on, the server sent {response.headers.get('Content-Range')!r}")
        total = None if found[2] == "*" else found[2]
    if total is not None and int(total) != stop:
        raise _Lasting(f"has {total} bytes there, the manifest says {stop}: copy the data set there again")


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's own instance: it keeps one for each set of credentials, and makes new ones after a fork."""
    return fsspec.core.url_to_fs(url)


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _wait_or_raise(url: str, error: Exception, failures: int) -> None:
    """Sleep before the next attempt; raise DatasetError when there should be none."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        raise NothingThere(f"{url}: nothing is there: check the URL, and that the data set was copied whole") from error
    if isinstance(error, PermissionError) or status in (401, 403) or _of_credentials(error):
        raise DatasetError(
            f"{url}: access is refused ({_short(error)}): give credentials where fsspec looks for them, such as "
            "AWS_PROFILE or FSSPEC_S3_ANON=true, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, or ~/.config/fsspec"
        ) from error
    if isinstance(error, ImportError):
        raise DatasetError(f"{url}: a package is missing ({_short(error)}): {packages_hint(url)}") from error
    if isinstance(error, _Lasting):
        raise DatasetError(f"{url}: {error}") from error
    lasting = status is not None and 400 <= status < 500 and status not in _PASSING
    if lasting or isinstance(error, (ValueError, TypeError)) or failures >= ATTEMPTS:
        tried = "" if lasting or failures < ATTEMPTS else f" in {failures} attempts"
        raise DatasetError(
            f"{url}: cannot be read{tried} ({_short(error)}): check the URL and the network; what came so far is kept, "
            "and the same command continues"
        ) from error
    time.sleep(FIRST_WAIT_S * 2 ** (failures - 1) * _JITTER.uniform(0.5, 1.5))


def _status(error: Exception) -> int | None:
    """The HTTP state in the error of a back end: aiohttp, gcsfs, huggingface_hub, or botocore beneath s3fs."""
    response = getattr(error, "response", None)
    found = [getattr(error, "status", None), getattr(error, "code", None), getattr(response, "status_code", None)]
    from_boto = getattr(error.__cause__, "response", None)
    if isinstance(from_boto, dict):
        found.append(from_boto.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return next((state for state in found if isinstance(state, int) and 100 <= state < 600), None)


def _of_credentials(error: Exception) -> bool:
    return any(kind.__name__ in _NO_CREDENTIALS for kind in type(error).__mro__)


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
