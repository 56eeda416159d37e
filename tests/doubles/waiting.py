"""Find what would make the host wait for a GPU, on a machine without one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Each reads a tensor's values to decide what to do next.
WAITS = frozenset(
    {
        "aten::_local_scalar_dense",  # item(), bool(), float(), tolist() of one value
        "aten::is_nonzero",
        "aten::equal",
        "aten::nonzero",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_consecutive",
        "aten::unique_dim",
        "aten::repeat_interleave.Tensor",
    }
)


class WaitError(AssertionError):
    """The host reads what a tensor holds."""


class NoWaiting(TorchDispatchMode):
    """Raises WaitError where an operation needs the values of a tensor on the host.

    A copy to the CPU cannot be told on the CPU, where it is none; `item` and its kin can.
    """

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.name()
        if name in WAITS:
            raise WaitError(name)
        # a mask as an index has as many rows as it has true values, which nobody knows beforehand
        if name in ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_"):
            for index in arguments[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    raise WaitError(f"{name} by a mask")
        return function(*arguments, **(options or {}))
