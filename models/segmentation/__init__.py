"""Person masks: which pixels of an aligned crop belong to a person."""

from __future__ import annotations

from models.errors import ModelError
from models.protocols import PersonMasker
from models.segmentation.pspnet_portrait import PortraitMasker
from models.segmentation.pspnet_voc import VOCMasker
from models.store import ModelStore

WEIGHTS: dict[str, tuple[str, ...]] = {
    "pspnet_portrait": ("pspnet_portrait",),
    "pspnet_voc": ("pspnet_voc",),
}
"""Network name to the registry names of the weight files that it needs."""

_MASKERS: dict[str, type[PortraitMasker] | type[VOCMasker]] = {
    "pspnet_portrait": PortraitMasker,
    "pspnet_voc": VOCMasker,
}


def load(name: str, store: ModelStore, device: str = "cpu", fast: bool = False) -> PersonMasker:
    """Return the masker ``name`` with its weights from ``store``, on a torch ``device``.

    ``fast``: bfloat16 and channels-last, for CUDA; in photographs probabilities then differ by
    0.003 on average and up to 0.3 at vague outlines.
    Raises ModelError for an unknown name, and where weights are missing or wrong.
    """
    if name not in _MASKERS:
        raise ModelError(f"no person mask network {name!r}; known: {', '.join(sorted(_MASKERS))}")
    return _MASKERS[name](store.path(WEIGHTS[name][0]), device, fast)
