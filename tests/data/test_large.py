"""Two million rows, from the file to token ids, in memory that a small machine has."""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nlptl.data.languages import can_tell_languages

ROOT = Path(__file__).parents[2]
NUM_ROWS, NUM_TEXTS = 2_000_000, 1_000_000
"""Each text occurs twice: near duplicates are not looked for among more than a million different texts."""
MOST_BYTES = 2 * 10**9
LABELS = ("negative", "positive")
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
NUM_WORDS = 13

CHILD = """
import json, logging, sys
from pathlib import Path

logging.basicConfig(level="INFO", format="%(relativeCreated)8d %(message)s", stream=sys.stderr)

from nlptl import Classifier, load_splits
from nlptl.training.cache import FeatureCache
from nlptl.training.inputs import prepare_inputs

data, folder = sys.argv[1:]
splits = load_splits(data)
model = Classifier.from_pretrained(folder, labels=splits.labels)
found = {"labels": splits.labels.names, "findings": [each.kind for each in splits.findings], "rows": {}, "tokens": {}}
for name in ("train", "validation", "test"):
    inputs = prepare_inputs(model, splits[name], None, cache=FeatureCache(gigabytes=2))
    found["rows"][name] = len(inputs)
    found["tokens"][name] = [len(inputs.tokens.ids), int(inputs.tokens.ids.min()), int(inputs.tokens.ids.max())]
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({**found, "peak": int(lines["VmHWM"].split()[0]) * 1024}))
"""


def write_model(folder: Path) -> None:
    """Save an encoder of one small layer, whose tokenizer knows syllables and digits."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = [*SYLLABLES, *"0123456789"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *pieces, *(f"##{piece}" for piece in pieces)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, **sizes)).save_pretrained(folder)


def write_rows(path: Path) -> tuple[int, int]:
    """Write texts of words of three syllables and a number of six digits; return characters and tokens of each."""
    rng = random.Random(0)
    words = list(map("".join, itertools.product(SYLLABLES, repeat=3)))
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for i in range(NUM_TEXTS):
            text = f"{' '.join(rng.choices(words, k=NUM_WORDS))} {i:06}"
            file.write(f"{text},{LABELS[i % 2]}\n" * (NUM_ROWS // NUM_TEXTS))
    return len(text), NUM_WORDS * 3 + 6 + 2


@pytest.mark.nightly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_two_million_rows_fit_into_two_gigabytes():
    with tempfile.TemporaryDirectory() as name:  # half a gigabyte, which pytest would keep
        write_model(Path(name) / "model")
        num_characters, num_tokens = write_rows(Path(name) / "reviews.csv")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NLPTL_CACHE": name, "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", CHILD, f"{name}/reviews.csv", f"{name}/model"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert num_characters == 97
    assert found["labels"] == list(LABELS)
    assert found["rows"] == {"train": 1_600_000, "validation": 200_000, "test": 200_000}
    assert sum(count for count, _, _ in found["tokens"].values()) == num_tokens * NUM_ROWS
    last = 4 + 2 * (len(SYLLABLES) + 10) - 1
    assert {tuple(ends) for _, *ends in found["tokens"].values()} == {(2, last)}  # no word is unknown
    # Made-up words look like some language.
    assert set(found["findings"]) == {"leak", "duplicate", *["other_language"] * can_tell_languages()}
    assert "not looking for near duplicates" not in done.stderr
    assert found["peak"] < MOST_BYTES, done.stderr
