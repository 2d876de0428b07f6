from pathlib import Path

import pytest

from tests.pretrain.adaptation.small_runs import write_base


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and the model `base`; do not change them."""
    folder = tmp_path_factory.mktemp("adaptation")
    write_base(folder)
    return folder
