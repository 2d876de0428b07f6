"""Which data set paths are URLs, and which URLs are read."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from neurochorus.data_shards.dataset_error import DatasetError

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp", "hf": "huggingface_hub"}
"Scheme of a URL -> the package that fsspec reads it with; `pip install 'neurochorus[remote]'` brings all of them."

_FLATTENED = re.compile(rf"({'|'.join(PACKAGES)}):/[^/]")


def is_url(path: str | Path) -> bool:
    """Tell whether a data set path is a URL (`s3://bucket/data`) and not a directory."""
    return isinstance(path, str) and "://" in path


def is_directory_or_url(path: str | Path) -> bool:
    """Tell whether a path may be a data set: an existing directory, or a URL."""
    return is_url(path) or Path(path).is_dir()


def data_place(path: str | Path) -> Path | str:
    """Return where a data set lies: an absolute directory, or a URL without a slash at its end.

    Raises DatasetError for a URL that is not read: of another scheme, with a password or with a query.
    """
    if not is_url(path):
        if _FLATTENED.match(str(path)):
            raise DatasetError(f"{path}: a URL has two slashes after its scheme: give it as text, not as a Path")
        return Path(path).absolute()
    url = str(path).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in PACKAGES or "::" in url:
        raise DatasetError(f"{url}: expected a directory, or a URL that starts with {'://, '.join(PACKAGES)}://")
    if "@" in parts.netloc or "?" in url or "#" in url:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise DatasetError(
            f"{shown}: a URL of a data set carries no password, query or fragment: they would end up in logs; give "
            "credentials to fsspec (its configuration files, or the environment variables of the service)"
        )
    return url


def packages_hint(url: str) -> str:
    """Say how to install what reads such a URL."""
    return f"pip install {PACKAGES[urlsplit(url).scheme]}, or 'neurochorus[remote]' for every kind of URL"
