"""The best weights of a run so far: a copy in memory, or in a file where they are too large to be copied."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.parameters import Parameters

__all__ = ["BestWeights"]

BLOCK_NUMBERS = 2**22


class BestWeights:
    """What is kept of a run: cloned, or written to a temporary file without a name where the head is large.

    The file is gone when the process ends, however it ends. Where it cannot be written, training goes on and the last
    weights are kept.

    Parameters
    ----------
    parameters : Parameters
    folder : path, optional
        Where the file lies; the system's folder for temporary files by default.
    """

    def __init__(self, parameters: Parameters, folder: Path | None = None) -> None:
        self.parameters, self.folder = parameters, folder
        self._file: BinaryIO | None = None
        self._is_latest = True

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, flat: Tensor) -> Tensor:
        """Return what stands for the best weights: a clone of ``flat``, or the parameters until :meth:`put_back`."""
        if self.parameters.keeps_copies:
            return flat.clone()
        try:
            self._write()
        except OSError as error:
            warnings.warn(
                f"the best weights cannot be kept ({error.strerror or error}): the last ones will be", stacklevel=3
            )
            self._file = None
        return self.parameters.flat

    def changed(self) -> None:
        """Note that training goes on from the weights that were kept."""
        self._is_latest = False

    def put_back(self) -> None:
        """Read the weights from the file into the parameters, where others have followed them."""
        import torch

        if self._file is None or self._is_latest:
            return
        self._file.seek(0)
        for part in torch.split(self.parameters.flat, BLOCK_NUMBERS):
            block = torch.empty_like(part, device="cpu")
            data = block.numpy().data.cast("B")
            if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
                raise OSError("the file of the best weights has become shorter")
            part.copy_(block)

    def _write(self) -> None:
        import torch

        if self._file is None:
            folder = None if self.folder is None or not self.folder.is_dir() else self.folder
            self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (lives as long as the run)
        self._file.seek(0)
        for part in torch.split(self.parameters.flat, BLOCK_NUMBERS):
            self._file.write(part.cpu().numpy().data.cast("B"))
        self._file.flush()
        self._is_latest = True
