"""What is frozen is computed once: what the head reads, or the hidden states above the lowest frozen layers."""

from accelerate import Accelerator

from nlptl.model.classifier import Classifier
from nlptl.training.boundary import cut_at_boundary
from nlptl.training.cache import FeatureCache
from nlptl.training.encoding import encode_once
from nlptl.training.inputs import Inputs


def precompute(
    model: Classifier,
    inputs: Inputs,
    accelerator: Accelerator,
    *,
    cache: FeatureCache | None,
    dtype: str,
    num_passes: int,
    encoder_sha256: str,
) -> Inputs:
    """Return `inputs` with what never changes while `model` trains as it is set now.

    Args:
        model: The classifier; what of it is frozen decides.
        inputs: A split.
        accelerator: The device and the other processes.
        cache: Where features are kept for later runs. None: nothing is computed ahead.
        dtype: Precision of hidden states, "float32" or "float16".
        num_passes: How often the split will be run through the model.
        encoder_sha256: Hash of the weights that the encoder has now.
    """
    if cache is None:
        return inputs
    inputs = encode_once(model, inputs, accelerator, cache=cache, encoder_sha256=encoder_sha256)
    if inputs.features is not None:
        return inputs
    return cut_at_boundary(model, inputs, accelerator, num_passes=num_passes, dtype=dtype, folder=cache.folder)
