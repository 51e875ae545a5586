"""Where the real images for development lie; tests that need them skip where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

VOLUMES = Path(__file__).resolve().parents[4] / "shared" / "data" / "volumes"


@pytest.fixture
def volumes() -> Path:
    if not VOLUMES.is_dir():
        pytest.skip("the development images (../shared/data/volumes) are not here")
    return VOLUMES
