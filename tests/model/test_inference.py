"""Texts over processes: each is computed once."""

import numpy as np
import torch

from nlptl.model import inference
from nlptl.model.inference import map_rows


def test_each_text_is_computed_once_over_all_processes(monkeypatch):
    monkeypatch.setattr(inference, "CPU_TOKENS", 10)
    lengths = np.array([9, 2, 8, 2, 7, 2, 6])
    num_rows, total = [], torch.zeros(7, 1)
    for process in range(4):
        results, counts = map_rows(
            lambda rows: torch.from_numpy(rows)[:, None].float(),
            lengths,
            device=torch.device("cpu"),
            process=process,
            num_processes=4,
        )
        total += results
        num_rows.append(int(counts.sum()))
    assert total.flatten().tolist() == list(range(7))
    assert sum(num_rows) == 7
