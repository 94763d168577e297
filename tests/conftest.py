"""Tiny models and toy data, built in process: no test needs a network."""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Threads of several workers would wait for each other's cores.

import csv
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import pytest

FAMILIES = {
    "bert": {},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16},
    "modernbert": {"local_attention": 8, "classifier_pooling": "mean"},
}
"""Every supported model type, and what its tiny configuration needs besides the common sizes."""

UNLISTED = {
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "ernie": {},
    "eurobert": {"num_key_value_heads": 1},
    "flaubert": {"emb_dim": 32},
    "longformer": {"attention_window": 4},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "nomic_bert": {},
    "rembert": {"input_embedding_size": 16},
    "roberta-prelayernorm": {},
    "roformer": {},
    "splinter": {},
    "squeezebert": {"embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2, "output_groups": 2},
    "xlm": {"emb_dim": 32},
    "xmod": {"default_language": "en_XX"},
}
"""Model types that are not listed, and pass the checks when they are loaded."""

OTHER_FAMILIES = {
    "deberta-v2 with a convolution": ("deberta-v2", {"conv_kernel_size": 3, "norm_rel_ebd": "layer_norm"}),
    "electra without a projection": ("electra", {"embedding_size": 32}),
    "deberta without relative positions": ("deberta", {"relative_attention": False, "pos_att_type": None}),
}
"""Model types with settings that change their structure."""


def options(**settings: object) -> dict[str, object]:
    """Return arguments of `Classifier.from_pretrained`: fields of its configurations in place of their own names."""
    from nlptl.config import HeadConfig, ReadingConfig, TransferConfig

    shortcuts = ("freeze", "max_length", "pooling", "hidden", "dropout", "lora_rank")
    for name, kind in (("transfer", TransferConfig), ("head", HeadConfig), ("reading", ReadingConfig)):
        fields = (kind.__dataclass_fields__.keys() & settings.keys()).difference(shortcuts)
        if fields:
            settings[name] = kind(**{field: settings.pop(field) for field in fields})
    return settings


def cover(*factors: Iterable[object]) -> list[tuple[object, ...]]:
    """Return cases in which each value of each factor occurs: as many as the longest factor has values."""
    values = [list(factor) for factor in factors]
    return [tuple(each[i % len(each)] for each in values) for i in range(max(map(len, values)))]


def cover_pairs(
    first: Iterable[object], second: Iterable[object], third: Iterable[object]
) -> list[tuple[object, object, object]]:
    """Return cases in which each value of `first` meets each of `second`, and both in turn those of `third`."""
    others = list(third)
    return [(a, b, others[(i + j) % len(others)]) for i, a in enumerate(first) for j, b in enumerate(second)]


SENTENCES = (
    "a the film movie story plot acting scene was is and but very quite rather it this good great fine lovely superb "
    "touching bad poor dull awful boring weak not never always made me feel by end of . , !"
)
WORDS = SENTENCES.split()
POSITIVE, NEGATIVE = ("good", "great", "lovely", "superb"), ("bad", "dull", "awful", "boring")


def build_tokenizer():
    """Return a word-level tokenizer with the special tokens of BERT."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def build_model(family: str, folder: Path, **settings: object) -> Path:
    """Save a tiny encoder with random weights and its tokenizer into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModel

    common = {
        "vocab_size": 80,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    }
    if family == "distilbert":
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            common.pop(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            family, **{**common, **FAMILIES.get(family, {}), **UNLISTED.get(family, {}), **settings}
        )
        AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def toy_rows(count: int) -> list[tuple[str, str]]:
    """Return texts of different lengths with labels that a few words decide."""
    rows = []
    for i in range(count):
        label, words = (("positive", POSITIVE), ("negative", NEGATIVE))[i % 2]
        filler = " ".join(WORDS[(i * 7 + k) % 13] for k in range(3 + (i * 5) % 17))
        rows.append((f"{filler} {words[i % 4]} {words[(i // 3) % 4]} .", label))
    return rows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a test has printed pass from a worker to the main process, which takes UTF-8 alone."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what fixtures of a wider scope than a test encode out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLPTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own, and return its folder, which is not there yet."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"
    monkeypatch.setenv("NLPTL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny encoder of a family, built once."""
    built: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in built:
            built[family] = build_model(family, tmp_path_factory.mktemp(family))
        return built[family]

    return get


@pytest.fixture(scope="session")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny encoder with three layers, by its name in FAMILIES or OTHER_FAMILIES; built once."""
    built: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in built:
            family, settings = OTHER_FAMILIES.get(name, (name, {}))
            depth = {"n_layers" if family == "distilbert" else "num_hidden_layers": 3}
            built[name] = build_model(family, tmp_path_factory.mktemp("deep"), **depth, **settings)
        return built[name]

    return get


@pytest.fixture(scope="session")
def tiny_bert(family_folder: Callable[[str], Path]) -> Path:
    """Return the folder of a tiny BERT with dropout 0.1."""
    return family_folder("bert")


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV file of 120 toy reviews with the columns text and label."""
    path = tmp_path_factory.mktemp("toy") / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(toy_rows(120))
    return path
