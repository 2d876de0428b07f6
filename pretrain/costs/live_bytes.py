"""How many bytes of tensors are alive, and at most were, while some code runs; on tensors with or without memory."""

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, finalize

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make inside of it, until they are freed.

    `known`: tensors that are there already, which count as nothing. What a kernel allocates and frees by itself is not
    seen. Storages of fake tensors (torch's FakeTensorMode) have a size but no memory, and count all the same.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now, self.peak = 0, 0
        self._seen: WeakKeyDictionary[UntypedStorage, None] = WeakKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        return result

    def _note(self, storage: UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = None
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.now -= size
