"""What is dropped of the inputs in training, as a function of the seed and the step."""

from __future__ import annotations

import pytest
import torch

from softmaxnet.batches import Columns
from softmaxnet.dropout import Part, drop_columns

COLUMNS = Columns(torch.tensor([0, 0, 1, 2, 2, 2]), 3)


def test_a_column_is_dropped_with_all_its_inputs():
    """In each row the inputs of one column are all 0 or all there."""
    kept = drop_columns(torch.ones(500, 6), COLUMNS, 0.3, (0, 5)) > 0
    assert (kept[:, 0] == kept[:, 1]).all()
    assert (kept[:, 3:] == kept[:, 3:4]).all()
    assert not (kept[:, 0] == kept[:, 2]).all()


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_what_is_left_is_scaled_up_for_what_is_dropped(rate):
    """A share of about the rate is 0 (five standard errors), the rest makes up for it to within the draw's 256ths."""
    n = 20_000
    dropped = drop_columns(torch.full((n, 6), 3.0, dtype=torch.float64), COLUMNS, rate, (1, 2))[:, [0, 2, 3]]
    share = float((dropped == 0).double().mean())
    assert share == pytest.approx(rate, abs=1 / 512 + 5 * (rate * (1 - rate) / (3 * n)) ** 0.5)
    assert torch.unique(dropped).tolist() == pytest.approx([0, 3 / (1 - rate)], rel=0.01)


def test_no_two_steps_and_no_two_seeds_drop_the_same():
    """The same seed and step draw the same; others do not."""
    draws = [drop_columns(torch.ones(64, 6), COLUMNS, 0.5, key) for key in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


@pytest.mark.parametrize("first", [0, 1, 11, 40])
def test_a_part_of_the_rows_is_dropped_as_in_the_whole(first):
    """Rows on another process get what they would have got here."""
    whole = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    part = drop_columns(whole[first : first + 9], COLUMNS, 0.4, (3, 4), Part(first, 64))
    assert torch.equal(part, drop_columns(whole, COLUMNS, 0.4, (3, 4))[first : first + 9])
