"""Bytes of tensors that are alive, and the most that were at once: what a device's allocator would be asked for."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """While entered, follows the storage of every tensor that an operation makes, backward passes included.

    What lived before is not counted until :meth:`follow` is told of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now until it is freed."""
        storage = tensor.untyped_storage()
        size, key = storage.nbytes(), storage._cdata
        if tensor.is_meta or size == 0 or key in self._alive:
            return
        self.now += size
        self.most = max(self.most, self.now)

        def freed(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.follow(leaf)
        return result
