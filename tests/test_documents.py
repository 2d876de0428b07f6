"""README.md and docs/: their links lead somewhere, and what they tell people to type can be typed."""

import re
from pathlib import Path

import pytest

from neurochorus.data_shards.settings import read_settings
from neurochorus.pretrain.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "launch" / "cluster" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_launch_that_are_named_are_there(page: Path) -> None:
    for path in re.findall(r"(?<!tests/)launch/[\w/]+\.(?:py|yaml|sbatch)", page.read_text()):
        assert (ROOT / path).exists(), path


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"]({page.relative_to(ROOT)})" in readme


def test_the_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "my.yaml").write_text(text)
    config = read_settings(RunConfig, tmp_path / "my.yaml")
    assert config.data.exclude == ["subject:otter"]
    assert max(config.model.autoencoder.future_weights) == 40
