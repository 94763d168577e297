"""Finds a pretrained encoder, refuses what could run code, loads it, and names its parts."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import logging

from nlptl.data.samples import sample_model
from nlptl.errors import ConfigError, ResourceError, UntrustedFileError, one_line
from nlptl.formats import current_settings
from nlptl.model.seeding import one_at_a_time

FAMILIES = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "albert",
    "mpnet",
    "deberta",
    "deberta-v2",
    "modernbert",
)
"""Model types that are tested one by one; other encoders are checked when they are loaded."""

CODE_KEYS = ("auto_map", "trust_remote_code", "quantization_config", "_attn_implementation", "attn_implementation")
"""Keys of a configuration that make a loader run or download code; `_attn_implementation_internal` is one more."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5")

VOCABULARY_FILES = ("tokenizer.json", "vocab.*", "*.model")
LAYER_NUMBER = re.compile(r"\.layers?\.\d+\.")

HUB_FILES = ["*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"]


def find_model(name: str) -> Path:
    """Return the folder of a model: `sample:NAME`, a local folder, or a Hub id, `owner/name@revision` to pin it.

    A Hub id is downloaded into the Hugging Face cache, safetensors and JSON alone; nothing else opens a socket.

    Raises:
        ConfigError: If the name is no folder and cannot be a Hub id.
        ResourceError: If the Hub cannot be reached or does not have it.
    """
    if name.startswith("sample:"):
        return sample_model(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"Expected the folder of a pretrained model, found {'a file' if folder.exists() else 'nothing'} at {name}. "
            "Pass a folder with config.json and model.safetensors, a Hub id such as google-bert/bert-base-uncased, "
            "or sample:minilm."
        )
    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=HUB_FILES))
    except HFValidationError as error:
        raise ConfigError(f"Expected a folder or a Hub id, found {name!r}: {error}.") from error
    except Exception as error:  # The HTTP client has errors of its own, and it changed with huggingface_hub 2.
        raise ResourceError(
            f"Cannot download the model {name!r} from the Hugging Face Hub: {one_line(error)} "
            f"Check the spelling and the network; or, where there is a network, run `hf download {repository}` and "
            "copy the folder here, then pass its path; or pass sample:minilm, which needs no network."
        ) from error


def read_config(folder: Path) -> PreTrainedConfig:
    """Read `config.json` of a model folder after looking at it: a known family, no key that runs code.

    Raises:
        ConfigError: If the folder holds no model, or one of another family.
        UntrustedFileError: If the weights are pickles, a file names code to run, or an adapter lies beside them.
    """
    values = _read_json(folder / "config.json", folder)
    if (folder / "adapter_config.json").exists():
        # transformers would put the updates on the weights without a word.
        raise UntrustedFileError(
            f"Expected a whole model in {folder}, found adapter_config.json beside it. Merge the adapter once with "
            "peft (merge_and_unload, then save_pretrained), or remove the file."
        )
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise UntrustedFileError(
                f"Expected weights as safetensors in {folder}, found {', '.join(pickles)}, which can run code. "
                "Convert it once with the tool of whoever made it (transformers: model.save_pretrained), "
                "or take a revision of the model that has safetensors."
            )
        raise ConfigError(
            f"Expected model.safetensors in {folder}, found no weights in this format, the only one that is read. "
            "Check the path, or take a model or a revision of it that has safetensors."
        )
    if not any((folder / f"model.safetensors{end}").exists() for end in ("", ".index.json")):
        raise ConfigError(
            f"Expected model.safetensors, or its parts with model.safetensors.index.json, in {folder}, found "
            f"{', '.join(weights[:5])}, {_of_other_name(weights)}."
        )
    _refuse_code(values, folder / "config.json")
    if (folder / "tokenizer_config.json").exists():
        _refuse_code(_read_json(folder / "tokenizer_config.json", folder), folder / "tokenizer_config.json")
    encoder = values.get("encoder") if values.get("model_type") == "nlptl" else values
    current_settings({"head": values.get("head")}, folder / "config.json")
    encoder = encoder if isinstance(encoder, dict) else {}
    family = encoder.get("model_type")
    if flaw := _flaw_of_family(family, is_encoder_decoder=bool(encoder.get("is_encoder_decoder"))):
        raise _no_encoder(folder, family, flaw)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (StrictDataclassError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UntrustedFileError(
            f"Expected the settings of a {family} encoder in {folder / 'config.json'}, cannot use them: "
            f"{one_line(error)} Download or save the model again."
        ) from error
    settings = getattr(config, "encoder", config)
    if flaw := _flaw_of_settings(settings):
        raise _no_encoder(folder, family, flaw)
    if family == "big_bird":
        # It would change from sparse to full attention for good at the first short text, and then give other results.
        settings.attention_type = "original_full"
    return config


def _flaw_of_family(family: object, *, is_encoder_decoder: bool) -> str | None:
    """Return why models of a type are no encoders of text; None: they may be."""
    if family in FAMILIES:
        return None
    if not isinstance(family, str) or family not in MODEL_MAPPING_NAMES:
        return "which AutoModel of transformers does not know"
    if is_encoder_decoder or family in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "which has a decoder after its encoder"
    if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "a decoder, whose tokens do not see the next ones"
    return None


def _flaw_of_settings(config: PreTrainedConfig) -> str | None:
    """Return why a model with these settings is no encoder of text; None: it may be."""
    missing = [n for n in ("hidden_size", "num_hidden_layers", "max_position_embeddings") if not hasattr(config, n)]
    if missing:
        return f"whose settings have no {', '.join(missing)}"
    found: Any = MODEL_MAPPING[type(config)]
    reads = (found[0] if isinstance(found, tuple) else found).main_input_name
    return None if reads == "input_ids" else f"which reads {reads}, not token ids"


def _no_encoder(folder: Path, family: object, flaw: str) -> ConfigError:
    return ConfigError(
        f"Expected a text encoder, found {family!r} in {folder}, {flaw}. Pass an encoder, such as one of the families "
        f"{', '.join(FAMILIES)}."
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model folder.

    Raises:
        ConfigError: If there is none, if it cannot be read, or if it has no padding token.
    """
    if not any(path for pattern in VOCABULARY_FILES for path in folder.glob(pattern)):
        # transformers 5 would make up a tokenizer without any words.
        raise ConfigError(f"Expected tokenizer files in {folder}, found none. Pass a model folder with tokenizer.json.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing more special for a damaged file.
        raise ConfigError(
            f"Expected tokenizer files in {folder}, cannot load them: {one_line(error)} "
            "Pass a model folder with its tokenizer.json."
        ) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise ConfigError(
            f"Expected a fast tokenizer (tokenizer.json) with a padding token in {folder}, "
            f"found {type(tokenizer).__name__}. Pass a model that has one."
        )
    return tokenizer


def load_weights(
    model_class: Any, folder: Path, config: PreTrainedConfig, *, optional: tuple[str, ...] = ()
) -> tuple[PreTrainedModel, bool]:
    """Load a model in float32 from safetensors; `model_class` is one of the Auto classes or of the models.

    Returns:
        The model, and whether it has parameters that the checkpoint lacks, which are new: those may whose names begin
        with one of `optional`.

    Raises:
        UntrustedFileError: If a weight is missing, damaged, of another shape, NaN or infinite.
    """
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (
        *(SafetensorError, RuntimeError, OSError, ValueError),
        *(LookupError, ArithmeticError, AttributeError, AssertionError),
    ) as error:
        has_other_shapes = "ignore_mismatched_sizes" in str(error)
        found = "the shapes differ." if has_other_shapes else one_line(error)
        raise UntrustedFileError(
            f"Expected intact safetensors weights in {folder} that fit its config.json, cannot load them: {found} "
            "Download or save the model again."
        ) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(optional))
    if missing:
        raise UntrustedFileError(
            f"Expected all weights of a {config.model_type} model in {folder}, found {len(missing)} missing: "
            f"{', '.join(missing[:3])}. Download or save the model again, or pass another one."
        )
    layers = sorted(name for name in info["unexpected_keys"] if LAYER_NUMBER.search(name))
    if layers:
        raise UntrustedFileError(
            f"Expected the number of layers in config.json of {folder}, found weights of more: {layers[0]}. "
            "Restore config.json, or save the model again."
        )
    for name, parameter in model.named_parameters():
        if not torch.stack(torch.aminmax(parameter.detach())).isfinite().all():
            raise UntrustedFileError(
                f"Expected finite weights in {folder}, found NaN or infinity in {name}. Pass another copy of the model."
            )
    return model, bool(info["missing_keys"])


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and load reports off the console; what matters is checked and raised."""
    with one_at_a_time:  # these settings are those of the process
        verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if had_bars:
                logging.enable_progress_bar()


def max_positions(encoder: nn.Module) -> int:
    """Return how many tokens a text may have, special tokens included."""
    positions = int(cast(PreTrainedModel, encoder).config.max_position_embeddings)
    for name, module in encoder.named_modules():
        # Families after fairseq number positions from padding_idx + 1, so the rows before are never used.
        padding_id = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding_id is not None:
            return positions - int(padding_id) - 1
    return positions


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout that the configuration of an encoder names, those of its native head included."""
    for key, value in config.to_dict().items():
        if "dropout" in key and (value is None or isinstance(value, int | float)):
            setattr(config, key, dropout)


def _of_other_name(names: list[str]) -> str:
    """Return what weights under other names than that of a model are, and what to do."""
    if any(re.fullmatch(r".+-\d{5}-of-\d{5}\.safetensors", name) for name in names):
        return "parts of a model without their index. Fetch model.safetensors.index.json as well"
    variant = re.fullmatch(r"model\.([\w-]+)\.safetensors", names[0])
    if variant is not None:
        return (
            f"a variant of the weights ({variant[1]}), which is not read by itself. Rename it to model.safetensors "
            "(weights are computed with in float32, whatever their precision), or fetch the file of that name"
        )
    return "which is another name. Rename the file with the weights to model.safetensors"


def _refuse_code(values: dict[str, Any], path: Path) -> None:
    found = [values]
    while found:
        for key, value in found.pop().items():
            if key in CODE_KEYS or key.startswith("_attn_implementation"):
                raise UntrustedFileError(
                    f"Expected plain settings in {path}, found {key!r}, which can make a loader run or download code. "
                    "If you trust the model and it is of a supported family, remove the key from the file."
                )
            if isinstance(value, dict):
                found.append(value)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"Expected a model folder with {path.name}, found none in {folder}. Check the path.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UntrustedFileError(f"Expected JSON in {path}, cannot read it: {error}. Get the file again.") from error
    if not isinstance(values, dict):
        raise UntrustedFileError(f"Expected an object in {path}, found {type(values).__name__}. Get the file again.")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
