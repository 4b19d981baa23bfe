"""Forecasts of the picture suites: steps, sizes of networks, memory and disk."""

from __future__ import annotations

from ovbench.harness.generation.budget import GUIDE, Budget, on_gpu
from ovbench.harness.generation.cost import (
    CHECKPOINT_BYTES,
    EXTRACTOR_FEATURES,
    VGG16_PARAMS,
    WEIGHT_BYTES,
    dino_params,
    heads_params,
    latent_bytes,
    network_params,
    picture_bytes,
    training_bytes,
)
from ovbench.harness.generation.flops import forward_flops
from ovbench.harness.planning import Amount, Forecast
from ovbench.tasks.pictures import PictureTask


def generation_forecast(budget: Budget, task: PictureTask) -> Forecast:
    """Returns what the generation suite does."""
    steps = [
        budget.latents_step(),
        budget.stats_step(),
        budget.decoder_step(),
        budget.dit_step(),
        budget.samples_step(task),
        budget.features_step(task),
        budget.scores_step(task),
    ]
    sample, guidance = budget.sample, budget.recipe.sampling.sampler.guidance
    flops = None if sample.network is None else sample.network + (sample.guide or 0) + budget.decode_flops
    params, forward = _networks(budget)
    params[budget.recipe.dit.preset] = network_params(budget.network)
    forward[budget.recipe.dit.preset] = forward_flops(budget.network).total
    notes = _notes(budget)
    if guidance.active and guidance.kind == "auto":
        params[f"guide {GUIDE}"] = network_params(budget.guide)
        forward[f"guide {GUIDE}"] = forward_flops(budget.guide).total
        notes.append(f"the guide is taken to be {GUIDE}, whose weights must be given; its training is not counted")
    return Forecast(
        encoder=budget.encoder.name,
        steps=tuple(step for step in steps if step is not None),
        params=params,
        forward_flops=forward,
        sample_flops=flops,
        sample_precision=on_gpu(budget.recipe.sampling.sampler.precision),
        memory=(*([] if budget.decoder is None else [_decoder_memory(budget)]), _dit_memory(budget)),
        disk=(*_pictures_disk(budget), *_decoder_disk(budget), *_generation_disk(budget, task)),
        notes=tuple(notes),
    )


def reconstruction_forecast(budget: Budget, task: PictureTask) -> Forecast:
    """Returns what the reconstruction suite does."""
    steps = [
        budget.latents_step(),
        budget.decoder_step(),
        budget.reconstructions_step(task),
        budget.features_step(task),
        budget.scores_step(task),
    ]
    params, forward = _networks(budget)
    features = 2 * budget.num_test * EXTRACTOR_FEATURES[task.extractor] * 4
    return Forecast(
        encoder=budget.encoder.name,
        steps=tuple(step for step in steps if step is not None),
        params=params,
        forward_flops=forward,
        memory=() if budget.decoder is None else (_decoder_memory(budget),),
        disk=(
            *_pictures_disk(budget),
            *_decoder_disk(budget),
            Amount(what="features of pictures and reconstructions", num_bytes=features),
        ),
        notes=tuple(_notes(budget)),
    )


def _decoder_memory(budget: Budget) -> Amount:
    frozen = budget.encoder.params + (VGG16_PARAMS if budget.has_lpips else 0)
    total = training_bytes(budget.decoder_params, frozen + (dino_params() if budget.has_gan else 0))
    if budget.has_gan:  # the heads have no moving average
        total += heads_params() * (4 + 4 + 8)
    return Amount(what="training the decoder", num_bytes=total)


def _dit_memory(budget: Budget) -> Amount:
    encoder = 0 if budget.has_latents else budget.encoder.params
    total = training_bytes(network_params(budget.network), encoder)
    return Amount(what="training the transformer", num_bytes=total)


def _pictures_disk(budget: Budget) -> list[Amount]:
    if budget.recipe.data.source != "imagenet":
        return []
    px = budget.recipe.data.image_px
    return [
        Amount(what=f"training pictures at {px} px", num_bytes=picture_bytes(budget.num_train, px)),
        Amount(what=f"test pictures at {px} px", num_bytes=picture_bytes(budget.num_test, px)),
    ]


def _decoder_disk(budget: Budget) -> list[Amount]:
    if budget.decoder is None:
        return []
    heads = heads_params() if budget.has_gan else 0
    checkpoint = budget.decoder_params * CHECKPOINT_BYTES + heads * (4 + 8)
    return [
        Amount(what="weights of the decoder", num_bytes=budget.num_seeds * budget.decoder_params * WEIGHT_BYTES),
        Amount(what="checkpoint of the decoder, while it is trained", num_bytes=checkpoint),
    ]


def _generation_disk(budget: Budget, task: PictureTask) -> list[Amount]:
    recipe, params = budget.recipe, network_params(budget.network)
    count, kept = recipe.sampling.num_samples, budget.num_seeds * (1 + len(recipe.dit.probes))
    stored = "float32" if recipe.dit.latent_cache == "float32" else "bfloat16"
    latents = latent_bytes(budget.num_stored, budget.encoder.shape, stored, flips=False)
    px = recipe.data.image_px
    return [
        Amount(
            what=f"latents in {stored}" + ("" if budget.has_latents else ", if they are stored"),
            num_bytes=latents,
            optional=not budget.has_latents,
        ),
        Amount(what="weights of the transformer", num_bytes=kept * params * WEIGHT_BYTES),
        Amount(what="checkpoint of the transformer, while it is trained", num_bytes=params * CHECKPOINT_BYTES),
        Amount(
            what="features of samples",
            num_bytes=(kept + budget.num_seeds) * count * EXTRACTOR_FEATURES[task.extractor] * 4,
        ),
        Amount(what="samples as npz, on request", num_bytes=picture_bytes(count, px), optional=True),
    ]


def _networks(budget: Budget) -> tuple[dict[str, int], dict[str, int]]:
    name = "its own decoder" if budget.decoder is None else f"decoder {budget.recipe.decoder.preset}"
    params = {"encoder": budget.encoder.params, name: budget.decoder_params}
    return {key: value for key, value in params.items() if value}, {
        "encoder": budget.encoder.total_flops,
        name: budget.decode_flops,
    }


def _notes(budget: Budget) -> list[str]:
    notes: list[str] = []
    if budget.decoder is None:
        notes.append("the encoder has a decoder of its own, so none is trained")
    if budget.recipe.data.source == "world":
        notes.append("networks this small never reach such a share of a GPU's peak: go by what a step took once")
    return notes
