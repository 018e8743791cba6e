"""hqvox: curated voice-face datasets in HQ-VoxCeleb's form, and the models trained on them.

What is public is listed in ``__all__`` and described in docs/python.md. All else is private and may
change in any version.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hqvox.errors import HqvoxError

if TYPE_CHECKING:
    from hqvox.api import (
        FaceGenerator,
        FaceVoiceDataset,
        FaceVoicePair,
        GeneratedFace,
        OpenRelease,
        OpenWorkspace,
        log_mel,
        open_generator,
        open_release,
        open_workspace,
    )

__version__ = "0.1.0"
__all__ = [
    "FaceGenerator",
    "FaceVoiceDataset",
    "FaceVoicePair",
    "GeneratedFace",
    "HqvoxError",
    "OpenRelease",
    "OpenWorkspace",
    "__version__",
    "log_mel",
    "open_generator",
    "open_release",
    "open_workspace",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import hqvox` alone imports no package."""
    if name in __all__:
        return getattr(import_module("hqvox.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
