"""LoRA on every family: merged, saved and loaded as stock transformers and stock peft do it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from nlptl.config import TransferConfig
from nlptl.errors import ConfigError, ResourceError
from nlptl.model.adapters import add_lora, has_adapters, merged_state_dict, save_adapter
from nlptl.model.classifier import Classifier
from nlptl.model.encoder import FAMILIES
from tests.conftest import cover, options

# Three texts of 5, 3 and 8 tokens, padded with 0.
INPUT_IDS = torch.tensor([[2, 5, 22, 7, 3, 0, 0, 0], [2, 30, 3, 0, 0, 0, 0, 0], [2, 9, 31, 10, 6, 8, 25, 3]])
BATCH = {"input_ids": INPUT_IDS, "attention_mask": (INPUT_IDS != 0).long()}

# peft asks transformers by an older name whether activations are recomputed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
either_kind = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])


def load(folder: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, dtype=dtype).eval()


def layers_of(network: PreTrainedModel) -> nn.ModuleList:
    return next(module for module in network.base_model.modules() if isinstance(module, nn.ModuleList))


def add(network: PreTrainedModel, layers: nn.ModuleList | None = None, *, seed: int = 0, **settings: object) -> None:
    config = TransferConfig(**{"lora_rank": 2, **settings})
    add_lora(network, layers_of(network) if layers is None else layers, config, seed=seed)


def randomize(network: PreTrainedModel) -> None:
    """Move the updates, which start at zero, to where training might bring them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += 0.1 * noise.to(parameter.dtype)


def logits_of(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(**BATCH).logits


def head_names(network: PreTrainedModel) -> frozenset[str]:
    prefix = network.base_model_prefix + "."
    return frozenset(name for name, _ in network.named_parameters() if not name.startswith(prefix))


def adapted_names(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if hasattr(module, "lora_A")]


def put_adapter_on(model: PreTrainedModel, folder: Path) -> nn.Module:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder).eval()


@pytest.mark.parametrize(("family", "dora"), [*cover(FAMILIES, [False, True]), ("bert", True), ("deberta-v2", False)])
def test_train_merge_and_load(family: str, dora: bool, family_folder: Callable[[str], Path], tmp_path: Path):
    network = load(family_folder(family))
    before, stock_names, head = logits_of(network), list(network.state_dict()), head_names(network)
    add(network, dora=dora)
    assert has_adapters(network)
    assert len(adapted_names(network)) >= 4 * len(layers_of(network))
    torch.testing.assert_close(logits_of(network), before, atol=1e-10, rtol=0)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == head | {name for name, _ in network.named_parameters() if ".lora_" in name}
    assert any("lora_magnitude_vector" in name for name in trained) == dora

    randomize(network)
    network(**BATCH).logits.square().sum().backward()
    without = {
        name for name, p in network.named_parameters() if (p.grad is None or not p.grad.any()) and name in trained
    }
    assert not without
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)

    logits = logits_of(network)
    assert (logits - before).abs().max() > 0.1
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    merged = merged_state_dict(network)
    assert sorted(merged) == sorted(stock_names)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    network.save_pretrained(tmp_path / "merged", state_dict=merged)
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == ["config.json", "model.safetensors"]
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(logits_of(loaded), logits, atol=1e-10, rtol=0)
    assert not {"lora", "peft", "adapter"} & set((tmp_path / "merged" / "config.json").read_text().lower().split('"'))

    save_adapter(network, tmp_path / "adapter", base="owner/name", head_names=head)
    peft_model = put_adapter_on(load(family_folder(family)), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(peft_model), logits, atol=1e-10, rtol=0)
    assert adapted_names(peft_model.base_model.model) == adapted_names(network)


@either_kind
def test_float32(dora: bool, tiny_bert: Path, tmp_path: Path):
    network = load(tiny_bert, torch.float32)
    add(network, dora=dora)
    randomize(network)
    network.save_pretrained(tmp_path, state_dict=merged_state_dict(network))
    torch.testing.assert_close(logits_of(load(tmp_path, torch.float32)), logits_of(network), atol=1e-5, rtol=0)


@either_kind
def test_merged_weight_by_formula(dora: bool, tiny_bert: Path):
    network = load(tiny_bert)
    add(network, dora=dora, lora_rank=3, lora_alpha=12.0)
    randomize(network)
    layer = network.bert.encoder.layer[1].attention.self.value
    expected = layer.base_layer.weight + 12 / 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    if dora:  # Equation 5 of Liu et al. 2024
        magnitude = layer.lora_magnitude_vector["default"].weight
        expected = magnitude[:, None] * expected / expected.norm(dim=1, keepdim=True)
    merged = merged_state_dict(network)["bert.encoder.layer.1.attention.self.value.weight"]
    torch.testing.assert_close(merged, expected.detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("targets", "per_layer"),
    [
        (("auto",), ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]),
        (("query", "self.value"), ["query", "value"]),
        (("attention.self.query",), ["query"]),
        (("dense",), ["attention.output.dense", "intermediate.dense", "output.dense"]),
        (("attention.output.dense", "key"), ["key", "attention.output.dense"]),
    ],
)
@pytest.mark.parametrize("lowest", [0, 1])
def test_targets(targets: tuple[str, ...], per_layer: list[str], lowest: int, tiny_bert: Path, tmp_path: Path):
    network = load(tiny_bert)
    add(network, layers_of(network)[lowest:], lora_targets=targets)
    names = [f"bert.encoder.layer.{i}." for i in range(lowest, 2) for _ in per_layer]
    found = adapted_names(network)
    assert len(found) == len(names)
    assert all(name.startswith(start) for name, start in zip(found, names, strict=True))
    assert all(name.endswith(end) for name, end in zip(found, per_layer * (2 - lowest), strict=True))

    randomize(network)
    save_adapter(network, tmp_path / "adapter", base=str(tiny_bert), head_names=head_names(network))
    peft_model = put_adapter_on(load(tiny_bert), tmp_path / "adapter")
    assert adapted_names(peft_model.base_model.model) == found
    torch.testing.assert_close(logits_of(peft_model), logits_of(network), atol=1e-10, rtol=0)


OUTSIDE = r"is only outside the layers that can be adapted \(in the embeddings, a frozen layer, the pooler, the head\)"


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (("classifier",), f"found 'classifier', which {OUTSIDE}"),
        (("query", "pooler.dense"), f"found 'pooler.dense', which {OUTSIDE}"),
        (("layer.0.output.dense",), f"found 'layer.0.output.dense', which {OUTSIDE}"),
        (("ery",), "found 'ery', which names no linear layer"),
        (("LayerNorm",), "found 'LayerNorm', which names no linear layer"),
        (("word_embeddings",), "found 'word_embeddings', which names no linear layer"),
        (("auto", "query"), "found 'auto', which names no linear layer"),
        (("spare",), "found 'spare', which the forward pass never calls"),
        ((), "found no name"),
    ],
)
def test_targets_that_cannot_be_adapted(targets: tuple[str, ...], reason: str, tiny_bert: Path):
    network = load(tiny_bert)
    network.bert.encoder.layer[1].spare = nn.Linear(4, 4)
    choices = "attention.self.query, attention.self.key, attention.self.value, attention.output.dense"
    with pytest.raises(ConfigError, match=rf"for lora_targets, {reason}\. Pass auto alone, or some of: {choices}"):
        add(network, layers_of(network)[1:], lora_targets=targets)
    assert not has_adapters(network)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_auto_leaves_out_what_the_forward_pass_never_calls(tiny_bert: Path):
    network = load(tiny_bert)
    network.bert.encoder.layer[1].spare = nn.Linear(4, 4)
    add(network)
    assert len(adapted_names(network)) == 12
    assert not any("spare" in name for name in adapted_names(network))


@pytest.mark.parametrize("family", ["squeezebert", "ibert"])
def test_an_encoder_without_linear_layers(family: str, family_folder: Callable[[str], Path]):
    with pytest.raises(ConfigError, match=f"linear layers of torch for LoRA, found none in a layer of {family}, which"):
        Classifier.from_pretrained(family_folder(family), labels=["a", "b"], lora_rank=2)


def test_nothing_to_adapt(tiny_bert: Path):
    with pytest.raises(ConfigError, match="Expected linear layers above the frozen ones .* Pass --freeze nothing"):
        add(load(tiny_bert), nn.ModuleList())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 0}, "lora_rank must be a whole number of at least 1 or None, found 0"),
        ({"lora_rank": True}, "lora_rank must be a whole number or None, found True"),
        ({"lora_rank": 2.5}, "lora_rank must be a whole number or None, found 2.5"),
        ({"lora_rank": 8, "lora_alpha": 0.0}, "lora_alpha must be a number above 0, found 0.0"),
        ({"lora_rank": 8, "lora_alpha": float("nan")}, "lora_alpha must be a number above 0, found nan"),
        ({"lora_rank": 8, "lora_dropout": 1.0}, "lora_dropout must be a number of at least 0 and below 1, found 1.0"),
        ({"lora_rank": 8, "lora_dropout": -0.1}, "lora_dropout must be a number of at least 0 and below 1, found -0.1"),
    ],
)
def test_numbers_out_of_range(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):  # before the folder is looked for
        Classifier.from_pretrained("./nowhere", labels=["a", "b"], **options(**settings))


def test_adapters_are_added_once(tiny_bert: Path):
    network = load(tiny_bert)
    assert not has_adapters(network)
    add(network)
    with pytest.raises(ConfigError, match="Expected a network without adapters, found one with LoRA"):
        add(network)


def test_peft_is_not_installed(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"Expected the package peft .*Install it with pip install 'nlptl\[lora\]'"):
        add(load(tiny_bert))


def test_updates_are_seeded(tiny_bert: Path):
    def updates(seed: int) -> dict[str, torch.Tensor]:
        network = load(tiny_bert)
        state = torch.get_rng_state()
        add(network, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(7)
        return {name: p for name, p in network.named_parameters() if ".lora_A." in name}

    one, again, other = updates(1), updates(1), updates(2)
    assert len(one) == 12
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_head_is_left_as_it_is(tiny_bert: Path):
    network = load(tiny_bert)
    network.classifier.weight.requires_grad = False
    add(network)
    assert not network.classifier.weight.requires_grad
    assert network.classifier.bias.requires_grad


@either_kind
def test_dropout_is_off_in_eval_mode(dora: bool, tiny_bert: Path):
    network = load(tiny_bert)
    add(network, lora_dropout=0.5, dora=dora)
    randomize(network)
    assert not any(module.training for module in network.modules())
    assert torch.equal(logits_of(network), logits_of(network))
    layer = network.bert.encoder.layer[0].attention.self.query.train()
    x = torch.ones(1, 32, dtype=torch.float64)
    assert not torch.equal(layer(x), layer(x))


def test_the_network_is_in_eval_mode_afterwards_with_its_new_modules(tiny_bert: Path):
    network = load(tiny_bert).train()
    add(network)
    assert not any(module.training for module in network.modules())


@either_kind
@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_a_head_of_nlptl(family: str, dora: bool, family_folder: Callable[[str], Path], tmp_path: Path):
    model = Classifier.from_pretrained(family_folder(family), labels=["a", "b", "c"], pooling="mean").eval()
    network = model.network
    add(network, dora=dora)
    assert model.head_names == {
        name for name, p in network.named_parameters() if p.requires_grad and "lora" not in name
    }
    randomize(network)
    network.save_pretrained(tmp_path / "merged", state_dict=merged_state_dict(network))
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(logits_of(loaded), logits_of(network), atol=1e-5, rtol=0)

    save_adapter(network, tmp_path / "adapter", base="owner/name", head_names=model.head_names)
    encoder = put_adapter_on(AutoModel.from_pretrained(family_folder(family)), tmp_path / "adapter")
    with torch.no_grad():
        expected = network.encoder(**BATCH).last_hidden_state
        torch.testing.assert_close(encoder(**BATCH).last_hidden_state, expected, atol=1e-5, rtol=0)
        before = AutoModel.from_pretrained(family_folder(family)).eval()(**BATCH).last_hidden_state
    assert (expected - before).abs().max() > 0.1
    tensors = safetensors.torch.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in tensors)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("FEATURE_EXTRACTION", None)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_a_new_pooler_goes_with_the_adapter(family: str, family_folder: Callable[[str], Path], tmp_path: Path):
    network = load(family_folder(family))
    pooler = network.base_model.pooler
    with torch.no_grad():
        for parameter in pooler.parameters():
            parameter.copy_(torch.randn_like(parameter))
    prefix = network.base_model_prefix
    names = head_names(network) | {f"{prefix}.pooler.{name}" for name, _ in pooler.named_parameters()}
    add(network)
    randomize(network)
    save_adapter(network, tmp_path / "adapter", base="owner/name", head_names=names)
    peft_model = put_adapter_on(load(family_folder(family)), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(peft_model), logits_of(network), atol=1e-10, rtol=0)


def test_what_an_adapter_folder_holds(tiny_bert: Path, tmp_path: Path):
    network = load(tiny_bert)
    add(network)
    folder = tmp_path / "run" / "adapter"
    (tmp_path / "local@home").mkdir()
    saved = []
    for base, expected in (
        ("owner/name@abc", ("owner/name", "abc")),
        (str(tmp_path / "local@home"), (str(tmp_path / "local@home"), None)),
        ("owner/name", ("owner/name", None)),
        ("owner/name", ("owner/name", None)),
    ):
        save_adapter(network, folder, base=base, head_names=head_names(network))
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == expected
        assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
        saved.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert saved[-1] == saved[-2]
    # Saving changes nothing that a second adapter, or training, would see.
    assert network.peft_config["default"].modules_to_save is None


def test_an_adapter_that_cannot_be_written_leaves_nothing_behind(tiny_bert: Path, tmp_path: Path):
    network = load(tiny_bert)
    add(network)
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    for name in ("file", "other"):
        with pytest.raises(ConfigError, match=f"or one with a saved adapter, found something else at .*{name}"):
            save_adapter(network, tmp_path / name, base="owner/name", head_names=head_names(network))
    for folder in (tmp_path / "file" / "adapter", tmp_path / ("n" * 250)):
        with pytest.raises(ResourceError, match="Expected to write the adapter folder .* Free space or mend"):
            save_adapter(network, folder, base="owner/name", head_names=head_names(network))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


FRESH_PROCESS = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base, folder, batch = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
batch = {name: torch.tensor(values) for name, values in batch.items()}
stock = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
adapted = PeftModel.from_pretrained(stock, folder + "/adapter").eval()
merged = AutoModelForSequenceClassification.from_pretrained(folder + "/merged").eval()
assert not any(name.startswith("nlptl") for name in sys.modules)
with torch.no_grad():
    print(json.dumps([model(**batch).logits.tolist() for model in (adapted, merged)]))
"""


@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_fresh_process_without_nlptl(dora: bool, family_folder: Callable[[str], Path], tmp_path: Path):
    base = family_folder("roberta")
    network = load(base, torch.float32)
    add(network, dora=dora)
    randomize(network)
    network.save_pretrained(tmp_path / "merged", state_dict=merged_state_dict(network))
    save_adapter(network, tmp_path / "adapter", base=str(base), head_names=head_names(network))
    batch = json.dumps({name: tensor.tolist() for name, tensor in BATCH.items()})
    command = [sys.executable, "-c", FRESH_PROCESS, str(base), str(tmp_path), batch]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for logits in json.loads(result.stdout.splitlines()[-1]):
        torch.testing.assert_close(torch.tensor(logits), logits_of(network), atol=1e-5, rtol=0)
