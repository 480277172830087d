"""A table as it comes: numbers of any scale, words, missing cells and dates, without any preparation.

Run it with ``python examples/mixed_table.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from softmaxnet import SoftmaxClassifier, load_model


def make_orders(n_rows: int, seed: int) -> pd.DataFrame:
    """Return made-up orders; those of new customers from abroad, and the large ones in December, are often returned."""
    rng = np.random.default_rng(seed)
    orders = pd.DataFrame(
        {
            "amount": rng.lognormal(4, 1, n_rows),
            "country": rng.choice(["NO", "SE", "DE", "FR"], n_rows, p=[0.6, 0.2, 0.1, 0.1]),
            "earlier_orders": rng.poisson(2, n_rows).astype(float),
            "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 365, n_rows), unit="D"),
        }
    )
    score = (
        -1.5
        + 1.5 * (orders["country"] != "NO")
        - 0.8 * np.minimum(orders["earlier_orders"], 3)
        + 1.5 * ((orders["day"].dt.month == 12) & (orders["amount"] > 60))
    )
    orders["outcome"] = np.where(rng.random(n_rows) < 1 / (1 + np.exp(-score)), "returned", "kept")
    orders.loc[rng.random(n_rows) < 0.1, "earlier_orders"] = np.nan
    return orders


def main() -> None:
    """Fit on the frame, look at what its columns became, predict from the saved file."""
    train, test = make_orders(3000, seed=0), make_orders(5, seed=1)
    clf = SoftmaxClassifier(random_state=0).fit(train.drop(columns="outcome"), train["outcome"])
    for column in clf.model_.encoder.describe():
        print(f"{column['name']:<15} {column['kind']:<9} {column['share_missing']:5.1%} missing -> {column['becomes']}")
    with tempfile.TemporaryDirectory() as folder:
        clf.save(Path(folder) / "orders.safetensors")
        model = load_model(Path(folder) / "orders.safetensors")  # no PyTorch, no scikit-learn needed from here on
    proba = model.predict_proba(test.drop(columns="outcome"))
    print(test.assign(returned=proba[:, list(model.classes).index("returned")].round(3)).to_string(index=False))


if __name__ == "__main__":
    main()
