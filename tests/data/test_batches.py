"""Global batches and their parts are pure functions; nothing is lost, nothing is doubled."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import norm

from nlptl.data.batches import collate, global_batches, micro_batches
from nlptl.data.order import order
from nlptl.data.tokens import Tokens

LENGTHS = (order(200, "lengths") % 37) + 2


def batches(num_examples, batch_size, *, seed=0, first_step=0, epochs=2):
    num_steps = epochs * -(-num_examples // batch_size)
    return list(global_batches(num_examples, batch_size, seed=seed, first_step=first_step, num_steps=num_steps))


@pytest.mark.parametrize(("num_examples", "batch_size"), [(1, 1), (1, 8), (7, 8), (8, 8), (9, 8), (200, 32), (5, 1)])
def test_each_example_once_an_epoch(num_examples, batch_size):
    found = batches(num_examples, batch_size, epochs=3)
    assert [step for step, _ in found] == list(range(len(found)))
    per_epoch = len(found) // 3
    epochs = [np.concatenate([rows for _, rows in found[i : i + per_epoch]]) for i in range(0, len(found), per_epoch)]
    for number, rows in enumerate(epochs):
        assert np.array_equal(rows, order(num_examples, 0, number))
    sizes = [len(rows) for _, rows in found[:per_epoch]]
    assert sizes == [batch_size] * (num_examples // batch_size) + [num_examples % batch_size] * (
        num_examples % batch_size > 0
    )


def test_to_seek_is_to_skip():
    whole = batches(100, 32)
    for first_step in range(9):
        rest = batches(100, 32, first_step=first_step)
        assert [(step, rows.tolist()) for step, rows in rest] == [(s, rows.tolist()) for s, rows in whole[first_step:]]


def test_another_seed_gives_another_order():
    assert not np.array_equal(batches(100, 100)[0][1], batches(100, 100, seed=1)[0][1])


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize("max_tokens", [1, 38, 100, 1000])
@pytest.mark.parametrize("count", [1, 2, 5, 32, 200])
def test_micro_batches_of_all_processes_partition_the_batch(count, max_tokens, num_processes):
    indices = order(200, "rows")[:count]
    shares = [
        micro_batches(indices, LENGTHS, max_tokens=max_tokens, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    everything = [row for share in shares for part in share for row in part]
    assert sorted(everything) == sorted(indices)
    for share in shares:
        for part in share:
            assert len(part) > 0
            assert len(part) * LENGTHS[part].max() <= max_tokens or len(part) == 1


def padded_tokens(share, lengths):
    return sum(len(part) * int(lengths[part].max()) for part in share)


@pytest.mark.parametrize("max_tokens", [1, 20, 60, 1000])
@pytest.mark.parametrize("num_processes", [2, 3])
def test_no_other_cut_makes_the_largest_share_smaller(num_processes, max_tokens):
    for seed in range(20):
        indices = order(200, "rows", seed)[:8]
        longest_first = indices[np.lexsort((indices, -LENGTHS[indices]))]

        def cost(rows):
            return padded_tokens(micro_batches(rows, LENGTHS, max_tokens=max_tokens), LENGTHS)  # noqa: B023

        cuts = itertools.combinations_with_replacement(range(9), num_processes - 1)
        best = min(max(map(cost, np.split(longest_first, cut))) for cut in cuts)
        shares = [
            micro_batches(indices, LENGTHS, max_tokens=max_tokens, process=process, num_processes=num_processes)
            for process in range(num_processes)
        ]
        assert max(padded_tokens(share, LENGTHS) for share in shares) == best


@pytest.mark.parametrize(("num_processes", "most"), [(2, 1.05), (4, 1.12), (8, 1.15)])
def test_no_process_waits_long_for_another(num_processes, most):
    """Lengths spread as in real data: half of the texts have 55 tokens or less, one in fifty more than 280."""
    lengths = np.clip(np.exp(4 + 0.8 * norm.ppf((order(4000, "spread") + 0.5) / 4000)), 3, 512).astype(int)
    largest, mean = 0, 0.0
    for start in range(0, 4000, 32 * num_processes):
        indices = np.arange(start, min(4000, start + 32 * num_processes))
        work = [
            padded_tokens(
                micro_batches(indices, lengths, max_tokens=16384, process=process, num_processes=num_processes), lengths
            )
            for process in range(num_processes)
        ]
        largest, mean = largest + max(work), mean + sum(work) / num_processes
    assert largest < most * mean


def test_micro_batches_depend_on_the_set_of_rows_alone():
    indices = order(200, "rows")[:50]
    one = micro_batches(indices, LENGTHS, max_tokens=100)
    two = micro_batches(np.sort(indices), LENGTHS, max_tokens=100)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))


def test_micro_batches_are_of_similar_length():
    parts = micro_batches(np.arange(200), LENGTHS, max_tokens=200)
    longest = [LENGTHS[part].max() for part in parts]
    shortest = [LENGTHS[part].min() for part in parts]
    assert all(low >= high for low, high in zip(shortest, longest[1:], strict=False))
    padded = sum(len(part) * LENGTHS[part].max() for part in parts)
    assert padded < 1.1 * LENGTHS.sum()


def test_share_is_empty_with_fewer_examples_than_processes():
    assert micro_batches(np.array([4]), LENGTHS, max_tokens=100, process=1, num_processes=2) == []


def test_collation_pads_on_the_right():
    tokens = Tokens(np.array([2, 5, 3, 2, 6, 7, 3], dtype=np.int32), np.array([0, 3, 7]), 0, 0)
    batch = collate(tokens, np.array([1, 0]), pad_id=9, device=torch.device("cpu"))
    assert batch["input_ids"].tolist() == [[2, 6, 7, 3], [2, 5, 3, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_with_classes_every_epoch_has_as_many_places_for_each():
    classes = np.array([0] * 17 + [1] * 3)
    steps = list(global_batches(20, 8, seed=3, first_step=0, num_steps=6, classes=classes))
    epochs = [np.concatenate([rows for _, rows in steps[start : start + 3]]) for start in (0, 3)]
    assert [np.bincount(classes[epoch]).tolist() for epoch in epochs] == [[10, 10], [10, 10]]
    assert epochs[0].tolist() != epochs[1].tolist()
    resumed = list(global_batches(20, 8, seed=3, first_step=4, num_steps=6, classes=classes))
    for (step, rows), (again, same) in zip(steps[4:], resumed, strict=True):
        assert (step, rows.tolist()) == (again, same.tolist())
