"""What keeps its pretrained weights, and what trains. Frozen means: no gradient, and eval mode."""

from torch import nn
from transformers import PreTrainedModel

from nlptl.config import Freeze
from nlptl.errors import ConfigError
from nlptl.model.encoder import encoder_layers


def freeze(network: PreTrainedModel, what: Freeze, *, head_names: frozenset[str], unused_names: frozenset[str]) -> None:
    """Set which parameters of `network` get a gradient.

    Args:
        network: Encoder and head.
        what: "nothing", "embeddings", "encoder", or the number of lowest layers that are frozen with the embeddings.
        head_names: Parameters that always train.
        unused_names: Parameters that never train, since no logit depends on them.

    Raises:
        ConfigError: If the encoder does not have that many layers, or shares its weights between them.
    """
    encoder = network.base_model
    layers = encoder_layers(encoder)
    if isinstance(what, bool) or (not isinstance(what, int) and what not in ("nothing", "embeddings", "encoder")):
        raise ConfigError(
            f"Expected freeze to be 'nothing', 'embeddings', 'encoder' or a number of layers, found {what!r}."
        )
    trained = {id(parameter) for parameter in encoder.parameters()}
    if isinstance(what, int):
        if layers is None or not 1 <= what <= len(layers):
            found = "layers that share their weights" if layers is None else f"{len(layers)} layers"
            raise ConfigError(
                f"Expected to freeze the lowest {what} layers, found an encoder with {found}. "
                "Pass 'nothing', 'embeddings', 'encoder'" + ("." if layers is None else f", or 1 to {len(layers)}.")
            )
        trained = {id(p) for layer in layers[what:] for p in layer.parameters()}
        trained |= {id(p) for name, p in encoder.named_parameters() if name.startswith(("pooler.", "final_norm."))}
    elif what == "embeddings":
        trained -= {id(p) for name, p in encoder.named_parameters() if name.startswith("embeddings.")}
    elif what == "encoder":
        trained = set()
    for name, parameter in network.named_parameters():
        parameter.requires_grad = (id(parameter) in trained or name in head_names) and name not in unused_names


def eval_frozen_parts(module: nn.Module) -> None:
    """Put every part whose parameters are all frozen in eval mode: dropout off, as with cached outputs."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        eval_frozen_parts(child)


def describe_training(network: PreTrainedModel, what: Freeze, *, head_names: frozenset[str]) -> str:
    """Return one line that says in words what trains, with the numbers of tensors and parameters."""
    everything = dict(network.named_parameters())
    trained = {name: p for name, p in everything.items() if p.requires_grad}
    parts = "head" if trained.keys() <= head_names else "encoder and head"
    frozen = {"nothing": "nothing frozen", "embeddings": "embeddings frozen", "encoder": "encoder frozen"}
    rest = f"embeddings and lowest {what} layers frozen" if isinstance(what, int) else frozen[what]
    return (
        f"training {len(trained)} of {len(everything)} tensors: {sum(p.numel() for p in trained.values()):,} of "
        f"{sum(p.numel() for p in everything.values()):,} parameters ({parts}); {rest}"
    )
