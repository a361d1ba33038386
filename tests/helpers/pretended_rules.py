"""Operators that make the host wait for the device, mix devices, or are not deterministic on CUDA.

Each rule gets an operator by its name and its name with overload ("aten::index.Tensor"), and what it was called with.
"""

from __future__ import annotations

from typing import Any

import torch

SYNC = {
    f"aten::{name}"
    for name in [
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_consecutive",
        "unique_dim",
        "equal",
        "is_nonzero",
        "bincount",
        "repeat_interleave.Tensor",
        "histc",
        "isin.Tensor_Tensor_",
        "_linalg_check_errors",
        "argwhere",
        "linalg_eigh",
        "linalg_lstsq",
        "_assert_async_",
    ]
}
"""Operators whose result the host has to see, if only its shape."""
UNSTABLE = {
    f"aten::{name}"
    for name in [
        "grid_sampler_2d_backward",
        "grid_sampler_3d_backward",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "_upsample_bilinear2d_aa_backward",
        "_upsample_bicubic2d_aa_backward",
        "upsample_linear1d_backward",
        "upsample_trilinear3d_backward",
        "upsample_nearest2d_backward",
        "_adaptive_avg_pool2d_backward",
        "adaptive_max_pool2d_backward",
        "max_pool2d_with_indices_backward",
        "avg_pool3d_backward",
        "_embedding_bag_backward",
        "_embedding_bag_dense_backward",
        "reflection_pad2d_backward",
        "replication_pad2d_backward",
        "nll_loss2d_forward",
        "median.dim",
        "histc",
        "bincount",
        "kthvalue",
        "_ctc_loss_backward",
        "put_",
        "scatter_reduce.two",
        "scatter_reduce_.two",
        "_segment_reduce_backward",
        "cumsum",
        "_cdist_backward",
    ]
}
"""Operators that `torch.use_deterministic_algorithms` refuses on CUDA; with warn_only they warn and stay as they are."""
COPIES = {f"aten::{name}" for name in ["copy_", "_to_copy", "to", "_foreach_copy_", "_copy_from"]}
INDEXED = {f"aten::{name}" for name in ["index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"]}
TAKES_SCALARS = {
    f"aten::{name}"
    for name in [
        "where",
        "masked_fill",
        "masked_fill_",
        "index_fill",
        "index_fill_",
        "_foreach_mul_",
        "_foreach_mul",
        "_foreach_add_",
        "_foreach_div_",
        "lerp",
        "lerp_",
        "fill_",
        "fill",
        "clamp",
    ]
}
"""Operators that take a tensor of no dimension from the host beside tensors of the device."""
Note = tuple[str, str] | None
"""Kind and words of a note: "fault", or "sync"."""


def on_device(value: Any) -> bool:
    """True for a tensor on the pretended device."""
    return hasattr(value, "inner")


def mixing(func: Any, name: str, full: str, args: Any, others: list[torch.Tensor]) -> Note:
    """Note on an operator of tensors of both devices; others: those of the host."""
    if name in INDEXED:
        indices = [index for index in args[1] if index is not None]
        if not on_device(args[0]):
            return ("fault", f"{full}: a CPU tensor is indexed by a CUDA tensor") if any(map(on_device, indices)) else None
        if not all(map(on_device, indices)):
            return "sync", "indices of the host are copied to the device"
        values = args[2] if "put" in name else None
        if isinstance(values, torch.Tensor) and not on_device(values) and values.dim():
            return "fault", f"{full}: values on another device {tuple(values.shape)}"
        return None
    if all(not other.dim() for other in others) and (torch.Tag.pointwise in func.tags or name in TAKES_SCALARS):
        return None
    return "fault", f"{full}: CPU tensor {[tuple(other.shape) for other in others][:3]} with CUDA tensors"


def waiting(name: str, full: str, args: Any, kwargs: Any, *, to_host: bool) -> Note:
    """Note on an operator that makes the host wait."""
    if name == "aten::_local_scalar_dense":
        return "sync", "item, float, int or bool of a tensor"
    if full == "aten::repeat_interleave.Tensor" and kwargs.get("output_size") is not None:
        return None
    if full in SYNC or name in SYNC:
        return "sync", name.removeprefix("aten::_").removeprefix("aten::")
    if name in INDEXED and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
        one_value = "put" in name and args[2].numel() == 1 and args[2].dim() == 0  # a masked fill
        return None if one_value else ("sync", "boolean index")
    if (name == "aten::_to_copy" and to_host and not kwargs.get("non_blocking")) or (
        name == "aten::copy_" and not on_device(args[0]) and not (len(args) > 2 and args[2])
    ):
        return "sync", "copy to the host"
    return None


def sending(name: str, args: Any, kwargs: Any, *, to_device: bool) -> Note:
    """Note on a copy to the device for which the host waits."""
    if name == "aten::_to_copy" and to_device and not on_device(args[0]):
        return ("h2d", "blocking copy to the device") if args[0].numel() and not kwargs.get("non_blocking") else None
    if name == "aten::copy_" and on_device(args[0]) and not on_device(args[1]) and args[1].numel() and args[1].dim():
        return None if len(args) > 2 and args[2] else ("h2d", "blocking copy to the device")
    return None
