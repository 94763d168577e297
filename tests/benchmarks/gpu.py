"""What is measured on a GPU: the systems of the other files, there and in bf16.

Trainings are compared by the texts a second in their last epoch, since compiling and warming up come before it.
"""

from functools import partial
from typing import Any

from tests.benchmarks import peak, predictions, trainings
from tests.benchmarks.measuring import Comparison, System

BEST: dict[str, Any] = {
    **trainings.BEST,
    "bf16": True,
    "optim": "adamw_torch_fused",
    "accelerator_config": {"non_blocking": True},
    "dataloader_num_workers": 4,
    "dataloader_persistent_workers": True,
    "pad_to_multiple_of": 8,
}
"""What makes Trainer quickest on a GPU, but for compiling."""

OURS = partial(trainings.WHOLE, mixed_precision="bf16")
STOCK = partial(trainings.stock, num_frozen=-1, rate=trainings.FULL_RATE)
DEFAULT = partial(STOCK, per_device_train_batch_size=8)
LARGE_STEPS = {"batch_size": 64, "micro_batch_tokens": 32768}  # of long texts, some 16,000 tokens a step
IN_BATCHES = {"batch_size": 64, "precision": "bfloat16"}
WARM = {"num_warm": 256}
"""A GPU loads each kernel when it is used first."""


def device_name() -> str | None:
    """Return what the GPU is called; None: there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _trained(prefix: str, job: str) -> dict[str, System]:
    return {
        f"{prefix}_ours": System(job, OURS),
        f"{prefix}_padding_free": System(job, partial(OURS, padding_free=True)),
        f"{prefix}_best": System(job, partial(STOCK, **BEST)),
        f"{prefix}_compiled": System(job, partial(STOCK, **BEST, torch_compile=True)),
    }


def _run(prefix: str, job: str, ours: Any, pipeline: Any) -> dict[str, System]:
    return {
        f"{prefix}_ours": System(job, partial(ours, **WARM)),
        f"{prefix}_bf16": System(job, partial(ours, bf16=True, **WARM)),
        f"{prefix}_padding_free": System(job, partial(ours, bf16=True, padding_free=True, **WARM)),
        f"{prefix}_pipeline": System(job, partial(pipeline, **WARM)),
        f"{prefix}_best": System(job, partial(pipeline, **IN_BATCHES, **WARM)),
    }


SYSTEMS: dict[str, System] = {
    "gpu_peak": System("none", partial(peak.matrix_products, size=8192, precision="bfloat16")),
    "gpu_minilm_trainer": System("short", DEFAULT),
    "gpu_bert_trainer": System("gpu_bert", DEFAULT),
    **_trained("gpu_minilm", "short"),
    **_trained("gpu_bert", "gpu_bert"),
    **_trained("gpu_long", "gpu_long"),
    "gpu_large_ours": System("gpu_long", partial(OURS, **LARGE_STEPS)),
    "gpu_large_padding_free": System("gpu_long", partial(OURS, padding_free=True, **LARGE_STEPS)),
    **_run("gpu_encode", "encode", predictions.encode_ours, predictions.encode_pipeline),
    **_run("gpu_predict", "gpu_predict", predictions.predict_ours, predictions.predict_pipeline),
    "gpu_sentence_transformers": System("encode", predictions.encode_sentence_transformers),
}

WAYS = {"ours": "", "padding_free": ", padding_free=True"}
"""By the end of a system's name, what is said of it."""


def _speeds(part: str, prefix: str, what: str, rival: str, whose: str, target: float) -> list[Comparison]:
    return [
        Comparison(part, f"{what}, {whose}{way}", f"{prefix}_{end}", f"{prefix}_{rival}", target, "texts_per_s")
        for end, way in WAYS.items()
    ]


COMPARISONS = (
    *_speeds("gpu-full", "gpu_bert", "bert-base, short texts", "trainer", "Trainer at its defaults, batches of 8", 20),
    *_speeds("gpu-full", "gpu_bert", "bert-base, short texts", "best", "Trainer at its best", 2),
    *_speeds("gpu-full", "gpu_minilm", "MiniLM, short texts", "trainer", "Trainer at its defaults, batches of 8", 20),
    *_speeds("gpu-full", "gpu_minilm", "MiniLM, short texts", "best", "Trainer at its best", 3),
    *_speeds("gpu-long", "gpu_long", "bert-base, long texts", "best", "Trainer at its best", 1.25),
    *(
        Comparison("gpu-long", f"peak memory, the same{way}", f"gpu_long_{end}", "gpu_long_best", 1.67, "gpu_mb")
        for end, way in WAYS.items()
    ),
    *_speeds("gpu-compiled", "gpu_bert", "bert-base, short texts", "compiled", "Trainer at its best, compiled", 2),
    *_speeds("gpu-compiled", "gpu_minilm", "MiniLM, short texts", "compiled", "Trainer at its best, compiled", 3),
    *_speeds("gpu-compiled", "gpu_long", "bert-base, long texts", "compiled", "Trainer at its best, compiled", 1.25),
    *(
        Comparison("gpu-mfu", f"share of the peak, bert-base{way}", f"gpu_large_{end}", "gpu_peak", 0.5, "gflops")
        for end, way in WAYS.items()
    ),
    *(
        Comparison(f"gpu-{job}", f"{job}, {what}", f"gpu_{job}_{ours}", f"gpu_{job}_{rival}", target)
        for job, targets in (("encode", (8, 1.5)), ("predict", (100, 4)))
        for ours, rival, what, target in (
            ("ours", "pipeline", "pipeline at its defaults", targets[0]),
            ("bf16", "best", "both in bf16, pipeline in sorted batches of 64", targets[1]),
            ("padding_free", "best", "the same, padding_free=True", targets[1]),
        )
    ),
    Comparison(
        "gpu-sentence-transformers", "encode, sentence-transformers", "gpu_encode_ours", "gpu_sentence_transformers", 8
    ),
)
