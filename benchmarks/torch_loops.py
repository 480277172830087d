"""The peers written in PyTorch: the loop that most people write, and a careful one. One call trains one epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

LEARNING_RATE = 1e-3


def network(n_inputs: int, n_hidden: int, n_classes: int) -> nn.Sequential:
    """Return a network of one hidden layer."""
    return nn.Sequential(nn.Linear(n_inputs, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_classes))


class UsualLoop:
    """DataLoader, autograd, Adam, as the tutorials have it; ``loss.item()`` is added up for the progress line."""

    def __init__(self, X: np.ndarray, y: np.ndarray, n_hidden: int, batch_size: int) -> None:
        data = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
        self.loader = DataLoader(data, batch_size=batch_size, shuffle=True)
        self.model = network(X.shape[1], n_hidden, int(y.max()) + 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.loss = nn.CrossEntropyLoss()

    def epoch(self) -> float:
        """Train one epoch and return the mean loss [nats]."""
        total = 0.0
        for X, y in self.loader:
            self.optimizer.zero_grad()
            loss = self.loss(self.model(X), y)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(X)
        return total / len(self.loader.dataset)  # type: ignore[arg-type]


class CarefulLoop:
    """No DataLoader: one gather an epoch, views of it as batches; fused Adam; no wait for the loss in a step."""

    def __init__(self, X: np.ndarray, y: np.ndarray, n_hidden: int, batch_size: int) -> None:
        self.X, self.y, self.batch_size = torch.from_numpy(X), torch.from_numpy(y), batch_size
        self.model = network(X.shape[1], n_hidden, int(y.max()) + 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, fused=True)

    def epoch(self) -> float:
        """Train one epoch and return the mean loss [nats]."""
        order = torch.randperm(len(self.X))
        X, y = self.X[order], self.y[order]
        total: Tensor = torch.zeros(())
        for start in range(0, len(X), self.batch_size):
            part = slice(start, start + self.batch_size)
            loss = nn.functional.cross_entropy(self.model(X[part]), y[part])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(X[part])
        return float(total) / len(X)
