"""The planner: a pure function, within its budget, from dense to tiles of classes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from softmaxnet.head_plan import DEFAULT_BUDGET, HeadPlan, keeps_copies, plan_head

MEBIBYTE = 2**20

sizes = {
    "n_rows": st.integers(1, 8192),
    "width": st.integers(1, 1024),
    "n_classes": st.integers(1, 3_000_000),
    "n_members": st.integers(1, 4),
    "itemsize": st.sampled_from([4, 8]),
}


@given(budget=st.integers(0, 2**33), **sizes)
def test_a_plan_covers_the_batch_within_its_budget(n_rows, width, n_classes, n_members, itemsize, budget):
    """At least a row and a class at a time, never more than there are; dense and rows keep to the budget."""
    plan = plan_head(n_rows, width, n_classes, n_members=n_members, itemsize=itemsize, budget=budget)
    assert 1 <= plan.n_rows <= n_rows
    assert 1 <= plan.n_classes <= n_classes
    if plan.kind == "dense":
        assert plan.n_bytes <= budget
    elif plan.kind == "rows":
        assert plan.n_bytes <= budget + plan.n_rows * 2 * width * itemsize
    else:
        assert plan.n_rows == n_rows


@given(**sizes)
def test_tiles_of_classes_take_no_more_for_more_classes(n_rows, width, n_classes, n_members, itemsize):
    """Ten times the classes need the same memory, up to the rounding of a tile."""
    settings = {"n_members": n_members, "itemsize": itemsize, "budget": 0}
    few, many = (plan_head(n_rows, width, n, **settings) for n in (n_classes, 10 * n_classes))
    assert few.kind == many.kind == "classes"
    assert many.n_bytes <= max(few.n_bytes, 16 * MEBIBYTE + 64 * (n_rows + width + 1) * itemsize * 2) + (
        2 * n_rows * width * itemsize
    )


def test_the_worked_sizes():
    """1,586 classes are dense, 200,000 go by rows within 420 MB, a million by classes within 64 MiB."""
    assert plan_head(256, 256, 1586).kind == "dense"
    rows = plan_head(1024, 256, 200_000)
    assert (rows.kind, rows.n_rows) == ("rows", 256)
    assert rows.n_bytes <= 420e6
    million = plan_head(256, 128, 1_000_000)
    assert million.kind == "classes"
    assert million.n_bytes <= 64 * MEBIBYTE
    assert DEFAULT_BUDGET == 512 * MEBIBYTE


def test_a_plan_fits_smaller_batches():
    """The kind stays as the weights are laid out for it; the rows are those that there are."""
    assert HeadPlan("rows", 256, 2048, 0).for_rows(100).n_rows == 100
    assert HeadPlan("rows", 256, 2048, 0).for_rows(1000).n_rows == 256
    assert HeadPlan("classes", 256, 2048, 0).for_rows(100).n_rows == 100


def test_copies_end_at_256_mebibytes():
    """Weights of 256 MiB are still copied, those of one class more are not."""
    assert keeps_copies(127, 2**19)
    assert not keeps_copies(127, 2**19 + 1)
