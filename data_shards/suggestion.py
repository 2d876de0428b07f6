from pathlib import Path


def suggest_recipe(path: Path) -> str:
    return ""
