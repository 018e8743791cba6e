"""Person masks: which pixels of an aligned crop belong to a person."""

from __future__ import annotations

from models.errors import ModelError
from models.protocols import PersonMasker
from models.store import ModelStore

WEIGHTS: dict[str, tuple[str, ...]] = {
    "pspnet_portrait": ("pspnet_portrait",),
    "pspnet_voc": ("pspnet_voc",),
}
"""Network name to the registry names of the weight files that it needs."""


def load(name: str, store: ModelStore, device: str = "cpu", fast: bool = False) -> PersonMasker:
    """Return the masker ``name`` with its weights from ``store``, on a torch ``device``.

    ``fast``: bfloat16 and channels-last, for CUDA; in photographs probabilities then differ by
    0.003 on average and up to 0.3 at vague outlines.
    Raises ModelError for an unknown name, and where weights are missing or wrong.
    """
    # Imported here, so that listing what there is does not cost the seconds that torch takes.
    if name == "pspnet_portrait":
        from models.segmentation.pspnet_portrait import PortraitMasker

        return PortraitMasker(store.path(name), device, fast)
    if name == "pspnet_voc":
        from models.segmentation.pspnet_voc import VOCMasker

        return VOCMasker(store.path(name), device, fast)
    raise ModelError(f"no person mask network {name!r}; known: {', '.join(sorted(WEIGHTS))}")
