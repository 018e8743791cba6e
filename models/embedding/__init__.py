"""Identity embeddings of faces, and the classifier of the VGGFace Score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import ModelError
from models.protocols import FaceEmbedder

if TYPE_CHECKING:
    from models.embedding.vggface2_resnet50 import ChannelOrder, VggFace2Classifier
    from models.inference import Precision
    from models.store import ModelStore

WEIGHTS: dict[str, tuple[str, ...]] = {
    "dlib_resnet": ("dlib_resnet",),
    "facenet_vggface2": ("facenet_vggface2",),
    "arcface_r50": ("arcface_r50",),
    "vggface2_resnet50": ("vggface2_resnet50",),
}
"""Names of the weight files that each network needs."""


def load(
    name: str, store: ModelStore, device: str = "cpu", precision: Precision = "float32"
) -> FaceEmbedder:
    """Return the embedder ``dlib_resnet``, ``facenet_vggface2`` or ``arcface_r50``.

    ``device``: a torch device. ``precision``: ``bfloat16`` (with channels-last memory, meant for
    CUDA) agrees with float32 to a cosine of 0.99. Raises ModelError for an unknown name, missing
    or wrong weights, and a device or precision that is not available.
    """
    # Imported here, so that listing what there is does not cost the seconds that torch takes.
    if name == "dlib_resnet":
        from models.embedding.dlib_resnet import DlibResnet

        return DlibResnet(store.path(name), device, precision)
    if name == "facenet_vggface2":
        from models.embedding.facenet import FaceNet

        return FaceNet(store.path(name), device, precision)
    if name == "arcface_r50":
        from models.embedding.arcface import ArcFace

        return ArcFace(store.path(name), device, precision)
    if name == "vggface2_resnet50":
        raise ModelError("vggface2_resnet50 is a classifier; get it with load_classifier")
    raise ModelError(
        f"no embedding network {name!r}; there are dlib_resnet, facenet_vggface2, arcface_r50"
    )


def load_classifier(
    store: ModelStore, device: str = "cpu", channel_order: ChannelOrder = "rgb"
) -> VggFace2Classifier:
    """Return ``vggface2_resnet50``, the classifier of the VGGFace Score.

    ``channel_order``: ``rgb`` as SF2F's released score feeds pictures, ``bgr`` as the network was
    trained. Raises ModelError where its weights are missing or wrong.
    """
    from models.embedding.vggface2_resnet50 import VggFace2Classifier

    return VggFace2Classifier(store.path("vggface2_resnet50"), device, channel_order)
