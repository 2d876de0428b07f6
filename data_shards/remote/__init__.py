"""Data sets behind a URL, read through fsspec and kept in a bounded cache on this machine."""

from neurochorus.data_shards.remote.urls import data_place, is_directory_or_url, is_url

__all__ = ["data_place", "is_directory_or_url", "is_url"]
