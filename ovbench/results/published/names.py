"""Which of our encoders, protocols and scores a published row speaks of. Data; what is not here is never joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# (encoder, pixels of a side) as printed → family/variant. Left out on purpose: names that fit several sets of weights,
# such as `CLIP` in OpenVision 3's Table 3, and weights that no variant of ours has.
ENCODERS: Mapping[tuple[str, str], str] = {
    ("OpenAI-CLIP B/16", "224"): "clip/b16",
    ("OpenAI-CLIP L/14", "224"): "clip/l14",
    ("OpenAI-CLIP L/14", "336"): "clip/l14-336",
    ("SigLIP SoViT-400M/14", "384"): "siglip/so400m-384",
    ("SigLIP2-B", "256"): "siglip2/base-256",
    ("DINOv2-B", "256"): "dinov2/base-reg",  # RAE takes the weights with registers
    ("DINOv2-L", "256"): "dinov2/large-reg",
    ("MAE-B", "256"): "mae/base-256",
    ("OpenVision B/16", "224"): "ovis1/base-16-224",
    ("OpenVision B/16", "384"): "ovis1/base-16-384",
    ("OpenVision L/14", "224"): "ovis1/large-14-224",
    ("OpenVision L/14", "336"): "ovis1/large-14-336",
    ("OpenVision SoViT-400M/14", "384"): "ovis1/so400m-14-384",
    ("OpenVision H/14", "224"): "ovis1/huge-14-224",
    ("OpenVision 2 L/14", "224"): "ovis2/large-14-224",
    ("OpenVision 2 L/14", "336"): "ovis2/large-14-336",
    ("OpenVision 2 SoViT-400M/14", "384"): "ovis2/so400m-14-384",
    ("OpenVision 2 H/14", "448"): "ovis2/huge-14-448",
    ("OpenVision 2 g/14", "224"): "ovis2/giant-14-224",
    ("OpenVision 3 VAE+B/2", "224"): "ovis3/base-224",
    ("OpenVision 3 VAE+L/2", "256"): "ovis3/large-256",
    ("OpenVision 3", "256"): "ovis3/base-256",  # Table 2's row is Table 9's OpenVision 3-B
    ("OpenVision 3-B", "256"): "ovis3/base-256",
    ("OpenVision 3-L", "256"): "ovis3/large-256",
    ("SD-VAE", "256"): "vae/sd",
    ("SD3-VAE", "256"): "vae/sd3",
    ("FLUX-VAE", "256"): "vae/flux",
}

# (suite, how the protocol's name begins) → frameworks as printed. The first whose start fits counts. Mini protocols are
# in none of them.
FRAMEWORKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("understanding", "llava15-", ("LLaVA-1.5",)),
    ("reconstruction", "rae-imagenet256", ("reconstruction", "RAE decoder ViT-XL tau=0.8")),
    ("generation", "rae-imagenet256-100ep", ("RAE (100 epochs)",)),
    ("generation", "rae-imagenet256-80ep", ("RAE + DiTDH-XL 80ep no guidance",)),
    ("generation", "rae-imagenet256-proxy", ()),
    (
        "generation",
        "rae-imagenet256",
        ("RAE", "RAE + DiTDH-XL 800ep no guidance", "RAE + DiTDH-XL 800ep AutoGuidance"),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A score of ours beside the words of papers for it."""

    metrics: tuple[str, ...]  # as printed
    factor: float  # printed value = factor x our stored value
    decimals: int  # that differences are shown with, at the printed scale
    caution: str = ""  # in what the two may differ although they carry one name


_NOT_STATED = "the publication does not say how answers were read"
# (task, metric of ours) → score.
SCORES: Mapping[tuple[str, str], Score] = {
    ("pope", "pope_f1_mean"): Score(
        metrics=("POPE",), factor=100, decimals=1,
        caution=f"here the mean of the three F1; whether the published number is that or an accuracy is not stated; "
        f"{_NOT_STATED}",
    ),
    ("pope-v1", "pope_f1_mean"): Score(
        metrics=("POPE",), factor=100, decimals=1,
        caution=f"here the mean of the three F1 on POPE's first release of 8,910 rows; {_NOT_STATED}",
    ),
    ("seedbench", "seed_image"): Score(
        metrics=("SeedBench",), factor=100, decimals=1,
        caution="here the 14,233 image questions; the published split is not stated",
    ),
    ("mme", "mme_perception"): Score(metrics=("MME-P",), factor=1, decimals=0, caution=_NOT_STATED),
    ("mme", "mme_cognition"): Score(metrics=("MME-C",), factor=1, decimals=0, caution=_NOT_STATED),
    ("scienceqa-img", "accuracy"): Score(
        metrics=("ScienceQA",), factor=100, decimals=1,
        caution="here the 2,017 questions with images; whether the published number is of these is not stated",
    ),
    ("gqa", "accuracy"): Score(metrics=("GQA",), factor=100, decimals=1, caution=_NOT_STATED),
    ("textvqa", "accuracy"): Score(
        metrics=("TextVQA",), factor=100, decimals=1,
        caution="here without OCR tokens in the prompt; LLaVA-1.5's own number has them",
    ),
    ("textvqa-ocr", "accuracy"): Score(
        metrics=("TextVQA",), factor=100, decimals=1,
        caution="here with OCR tokens in the prompt; whether the published number has them is not stated",
    ),
    ("chartqa", "accuracy"): Score(metrics=("ChartQA",), factor=100, decimals=1, caution=_NOT_STATED),
    ("ocrbench", "accuracy"): Score(
        metrics=("OCRBench",), factor=1000, decimals=0, caution="here the share of the scored rows x 1000",
    ),
    ("imagenet256-reconstruction", "FID"): Score(
        metrics=("ImageNet/rFID", "ImageNet256/rFID"), factor=1, decimals=3, caution="reference and resize not stated",
    ),
    ("imagenet256-reconstruction", "PSNR"): Score(metrics=("ImageNet/PSNR", "ImageNet256/PSNR"), factor=1, decimals=2),
    ("imagenet256-reconstruction", "SSIM"): Score(
        metrics=("ImageNet/SSIM",), factor=1, decimals=3, caution="window of SSIM not stated",
    ),
    ("imagenet256-reconstruction", "LPIPS"): Score(
        metrics=("ImageNet/LPIPS",), factor=1, decimals=3, caution="network of LPIPS not stated",
    ),
    ("imagenet256", "FID"): Score(metrics=("ImageNet256/gFID",), factor=1, decimals=2),
    ("imagenet256", "sFID"): Score(metrics=("ImageNet256/sFID",), factor=1, decimals=2),
    ("imagenet256", "IS"): Score(metrics=("ImageNet256/IS",), factor=1, decimals=1),
    ("imagenet256", "Precision"): Score(metrics=("ImageNet256/Precision",), factor=1, decimals=2),
    ("imagenet256", "Recall"): Score(metrics=("ImageNet256/Recall",), factor=1, decimals=2),
}  # fmt: skip


def frameworks_of(suite: str, protocol: str) -> tuple[str, ...]:
    """Returns the printed frameworks that a protocol follows, by its name without departures; none for mini."""
    for own, start, frameworks in FRAMEWORKS:
        if own == suite and protocol.startswith(start):
            return frameworks
    return ()
