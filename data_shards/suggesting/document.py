"""A recipe as text: every setting with the reason for it, and other choices, as comments."""

from typing import Any

import yaml

WIDTH = 116


class Section:
    """Settings in order; `render` gives YAML lines."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, Any]] = []

    def add(self, name: str, value: Any, *why: str) -> None:
        """Add a setting, or a section of them, below the reasons for it."""
        for reason in why:
            self.comment(reason)
        self._lines.append((name, value))

    def comment(self, text: str) -> None:
        self._lines.append(("#", text))

    def other(self, name: str, value: Any, why: str = "") -> None:
        """Add another choice, as a comment that can be uncommented."""
        self._lines.append(("#other", f"{flow(name)}: {flow(value)}" + (f"  # {why}" if why else "")))

    def other_section(self, name: str, section: "Section") -> None:
        """Add a whole section as a comment."""
        self._lines.append(("#other", f"{name}:"))
        for line in section.render("  "):
            self._lines.append(("#other", line.replace("  # ", "  ", 1)))

    @property
    def settings(self) -> list[str]:
        """Names of what is set, without comments."""
        return [name for name, _ in self._lines if not name.startswith("#")]

    def __bool__(self) -> bool:
        return bool(self._lines)

    def render(self, indent: str = "") -> list[str]:
        lines = []
        for name, value in self._lines:
            if name == "#":
                lines += [f"{indent}# {line}" for line in _wrapped(str(value), WIDTH - len(indent))]
            elif name == "#other":
                lines.append(f"{indent}# {value}")
            elif isinstance(value, Section):
                lines += [f"{indent}{flow(name)}:", *value.render(indent + "  ")]
            else:
                lines.append(f"{indent}{flow(name)}: {flow(value)}")
        return lines


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("...\n").strip()


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
