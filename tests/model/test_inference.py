"""Texts over processes: each is computed once."""

import numpy as np
import pytest
import torch

from nlptl.model import inference
from nlptl.model.inference import map_rows


@pytest.mark.parametrize("in_step", [False, True])
def test_processes_in_step_call_equally_often(in_step, monkeypatch):
    monkeypatch.setattr(inference, "CPU_TOKENS", 10)
    lengths = np.array([9, 2, 8, 2, 7, 2, 6])
    num_calls, num_rows, total = [], [], torch.zeros(7, 1)
    for process in range(4):
        calls = []

        def rows_as_numbers(rows, calls=calls):
            calls.append(rows)
            return torch.from_numpy(rows)[:, None].float()

        results, counts = map_rows(
            rows_as_numbers, lengths, device=torch.device("cpu"), process=process, num_processes=4, in_step=in_step
        )
        total += results
        num_calls.append(len(calls))
        num_rows.append(int(counts.sum()))
    assert total.flatten().tolist() == list(range(7))
    assert sum(num_rows) == 7
    assert len({*num_calls}) == (1 if in_step else 2)
