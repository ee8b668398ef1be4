"""Where tests find their material: the repository, and the reference papers and data beside it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def shared(*parts: str) -> Path:
    """A path below ../shared; without that folder nothing can be compared with real Caffe, so it
    fails.
    """
    path = SHARED.joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: the tests need ../shared beside the repository"
        )
    return path
