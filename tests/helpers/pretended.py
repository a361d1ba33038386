"""A CUDA device that is not there: tensors that say "cuda:0" and keep their values in main memory.

Every operator goes through `Pretended.__torch_dispatch__`, which notes operators that mix devices as CUDA would refuse them ("fault"),
whatever makes the host wait for the device ("sync": item, nonzero, boolean indexing, copies to the host; "h2d": blocking copies to the
device), operators without a CUDA kernel ("fault") and those that are not deterministic on CUDA ("unstable"), then runs the operator on the
processor. So a whole training step runs, values included, on a machine without a GPU. Kernels, NCCL and speed stay untested by it.

Import it before torch: it needs a small library (`pretended_guard.cpp`, built by g++ at need), which registers a device guard and hooks for
CUDA in a CPU build of torch. A copy to the host with `non_blocking=True` waits for nobody; who reads it must have waited for an event.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("pretended_guard.cpp")


def build() -> Path:
    """The library, built once for each version of torch and of the source."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch_folder = Path(spec.origin).parent
    version = (torch_folder / "version.py").read_bytes()
    key = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]
    library = Path(tempfile.gettempdir(), f"diptych-pretended-{os.getuid()}-{key}.so")
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}")
        options = ["-O1", "-shared", "-fPIC", "-std=c++20", f"-I{torch_folder}/include", f"-L{torch_folder}/lib"]
        links = [f"-Wl,-rpath,{torch_folder}/lib", "-ltorch_cpu", "-lc10"]
        subprocess.run(["g++", *options, str(SOURCE), *links, "-o", str(made)], check=True)
        made.rename(library)
    return library


ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)  # before torch: its hooks are looked up once

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from pretended_rules import COPIES, UNSTABLE, Note, mixing, sending, waiting  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map  # noqa: E402

CUDA = torch.device("cuda", 0)
PACKAGE = "/src/diptych/"


class Notes:
    """Counts by kind; each with the phase of the step, what it is, the function of the package that is deepest, and its line."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[tuple[str, str, str, str]]] = defaultdict(Counter)
        self.phase = "other"

    def add(self, kind: str, what: str) -> None:
        self.counts[kind][(self.phase, what, *_caller())] += 1

    def take(self, note: Note) -> None:
        if note is not None:
            self.add(*note)


def _caller() -> tuple[str, str]:
    """ "FILE FUNCTION" and "FILE:LINE" of the deepest frame in the package; of `core/rows`, which looks at every tensor, its caller."""
    frame: Any = sys._getframe(2)
    last = ("(autograd)", "(autograd)")
    while frame is not None:
        code = frame.f_code
        if PACKAGE in code.co_filename:
            file = code.co_filename.split(PACKAGE)[1]
            last = (f"{file} {code.co_qualname.replace('.<locals>', '')}", f"{file}:{frame.f_lineno}")
            if not file.startswith("core/rows"):
                break
        frame = frame.f_back
    return last


notes = Notes()


def _is(x: Any) -> bool:
    return isinstance(x, Pretended)


def _inner(x: Any) -> Any:
    return x.inner if _is(x) else x


class Pretended(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=requires_grad,
        )
        out.inner = inner
        return out

    def __repr__(self):
        return f"Pretended({self.inner!r})"

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Pretended(inner["inner"])

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        with torch.no_grad():
            out = Pretended(self.inner.detach().clone(), requires_grad=self.requires_grad)
        if getattr(self, "_is_param", False):
            out._is_param = True
        memo[id(self)] = out
        return out

    def __reduce_ex__(self, protocol):
        raise RuntimeError("a CUDA tensor was pickled")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.tolist and _is(args[0]):
            notes.add("sync", "tolist")
            return args[0].inner.detach().tolist()
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
            )
        if func is torch.Tensor.untyped_storage:  # by which savers find tensors that are tied
            return args[0].inner.untyped_storage()
        if func is torch.Tensor.type_as:
            return args[0].to(dtype=args[1].dtype, device=args[1].device)
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Attention by hand, as autocast would cast it."""
    for name, x in (("key", key), ("value", value), ("mask", attn_mask)):
        if isinstance(x, torch.Tensor) and _is(x) != _is(query):
            notes.add("fault", f"scaled_dot_product_attention: {name} on another device")
            if not _is(x):
                x = Pretended(x.detach())
                attn_mask = x if name == "mask" else attn_mask
                key = x if name == "key" else key
                value = x if name == "value" else value
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (x.to(dtype) if x.is_floating_point() else x for x in (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
    scale = scale if scale is not None else query.shape[-1] ** -0.5
    with torch.autocast("cuda", enabled=False):
        logits = (query * scale) @ key.transpose(-2, -1)
        if is_causal:
            may = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
            logits = logits.masked_fill(~may, float("-inf"))
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else logits + attn_mask
        weights = torch._safe_softmax(logits, -1)  # a query that may read nothing gets zeros, as from the kernels
        if dropout_p:
            weights = F.dropout(weights, dropout_p)
        return weights.to(value.dtype) @ value


def _gru_cell(input_gates, hidden_gates, hidden, input_bias=None, hidden_bias=None):
    """`aten::_thnn_fused_gru_cell`, which a CPU build of torch does not have: the next state, and what the backward pass needs."""
    if input_bias is not None:
        input_gates, hidden_gates = input_gates + input_bias, hidden_gates + hidden_bias
    (in_r, in_z, in_n), (hid_r, hid_z, hid_n) = input_gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    reset, update = (in_r + hid_r).sigmoid(), (in_z + hid_z).sigmoid()
    new = (in_n + reset * hid_n).tanh()
    return new + update * (hidden - new), torch.cat([reset, update, new, hid_n, hidden], 1)


def _gru_cell_backward(grad, workspace, has_bias):
    reset, update, new, hid_n, hidden = workspace.chunk(5, 1)
    of_new = grad * (1 - update) * (1 - new * new)
    of_reset = of_new * hid_n * reset * (1 - reset)
    of_update = grad * (hidden - new) * update * (1 - update)
    of_input, of_hidden = torch.cat([of_reset, of_update, of_new], 1), torch.cat([of_reset, of_update, of_new * reset], 1)
    biases = (of_input.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_input, of_hidden, grad * update, *biases


FUSED = {"aten::_thnn_fused_gru_cell": _gru_cell, "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward}
"""Kernels that are there on CUDA alone."""


def _run(func, args, kwargs):
    name = func._schema.name
    full = f"{name}.{func._overloadname}" if func._overloadname != "default" else name
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if _is(x)]
    others = [x for x in tensors if not _is(x)]
    device = kwargs.get("device")
    to_cuda = device is not None and torch.device(device).type == "cuda"
    to_cpu = device is not None and torch.device(device).type == "cpu"
    if ours and others and name not in COPIES:
        notes.take(mixing(func, name, full, args, others))
    notes.take(sending(name, args, kwargs, to_device=to_cuda))
    if ours:
        notes.take(waiting(name, full, args, kwargs, to_host=to_cpu))
        if not name.startswith(("aten::", "prim::", "torchvision::")):
            keys = ("CUDA", "CompositeImplicitAutograd", "CompositeExplicitAutograd")
            if not any(torch._C._dispatch_has_kernel_for_dispatch_key(full, key) for key in keys):
                notes.add("fault", f"{full} has no CUDA kernel")
    if full in UNSTABLE and ours:
        notes.add("unstable", full)
    if name in ("aten::_pin_memory", "aten::pin_memory"):
        return args[0].clone()

    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    if device is not None and to_cuda:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    if name == "aten::_to_copy":
        inner_kwargs.pop("pin_memory", None)
    if name == "aten::lift_fresh" or name == "aten::lift":
        return args[0]
    out = FUSED[name](*inner_args, **inner_kwargs) if name in FUSED else func(*inner_args, **inner_kwargs)
    on_cuda = to_cuda or (bool(ours) and not to_cpu)
    if name == "aten::copy_":
        on_cuda = _is(args[0])
    if name == "aten::_local_scalar_dense":
        return out
    if not on_cuda:
        if name == "aten::copy_":
            return args[0]
        if to_cpu and ours and isinstance(out, torch.Tensor) and out is inner_args[0]:
            return out
        return _same_for_mutated(func, args, kwargs, out, wrap=False)
    return _same_for_mutated(func, args, kwargs, out, wrap=True)


def _same_for_mutated(func, args, kwargs, out, wrap):
    wrapped = tree_map(lambda x: Pretended(x) if isinstance(x, torch.Tensor) and not _is(x) else x, out) if wrap else out
    if not wrap:
        return out
    try:
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    except Exception:
        returns = func._schema.returns
        if len(returns) == 1 and returns[0].alias_info is not None and returns[0].alias_info.is_write:
            return args[0]
        return wrapped


class Device(TorchDispatchMode):
    """Creates on the pretended device what is asked for there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if any(t is Pretended for t in types) or (device is not None and torch.device(device).type == "cuda"):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _move(module, device, dtype=None):
    """`nn.Module.to` that keeps ties and identity of what is there already."""
    memo = {}

    def moved(t, param):
        if t is None or (_is(t) == (device.type == "cuda") and dtype is None):
            return t
        if id(t) in memo:
            return memo[id(t)]
        inner = _inner(t.detach())
        if dtype is not None and inner.is_floating_point():
            inner = inner.to(dtype)
        if device.type == "cuda":
            new = Pretended(inner, requires_grad=t.requires_grad)
            if param:
                new._is_param = True
        else:
            new = nn.Parameter(inner, requires_grad=t.requires_grad) if param else inner
        memo[id(t)] = new
        return new

    for m in module.modules():
        for k, p in list(m._parameters.items()):
            m._parameters[k] = moved(p, True)
        for k, b in list(m._buffers.items()):
            m._buffers[k] = moved(b, False)
    return module


_real_to = nn.Module.to


def _to(self, *args, **kwargs):
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    if device is not None and (
        device.type == "cuda" or any(_is(p) for p in self.parameters()) or any(_is(b) for b in self.buffers())
    ):
        return _move(self, device, dtype)
    if device is None and dtype is not None and any(_is(p) for p in self.parameters()):
        return _move(self, CUDA, dtype)
    return _real_to(self, *args, **kwargs)


def _convert(self, dtype):
    return _move(self, CUDA, dtype) if any(_is(p) for p in self.parameters()) else _real_to(self, dtype)


class Event:
    """`torch.cuda.Event` of a device that is always done."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, stream: Any = None) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


def install() -> TorchDispatchMode:
    """Makes this process one with a CUDA device, until it ends."""
    cuda: Any = torch.cuda
    cuda.Event = Event
    cuda._lazy_init = lambda: None
    cuda.is_available = lambda: True
    cuda.is_initialized = lambda: True
    cuda.is_bf16_supported = lambda including_emulation=True: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.set_device = lambda d: None
    cuda.synchronize = lambda d=None: notes.add("sync", "torch.cuda.synchronize")
    state = {"s": torch.zeros(16, dtype=torch.uint8)}
    cuda.get_rng_state = lambda device=None: state["s"].clone()
    cuda.set_rng_state = lambda s, device=None: None
    cuda.manual_seed = cuda.manual_seed_all = cuda.manual_seed.__class__ and (lambda seed: None)
    cuda.empty_cache = lambda: None
    cuda.max_memory_allocated = lambda d=None: 0
    cuda.reset_peak_memory_stats = lambda d=None: None
    cuda.get_device_name = lambda d=None: "pretended"
    nn.Module.to = _to
    nn.Module.cuda = lambda self, device=None: _move(self, CUDA)
    nn.Module.cpu = lambda self: _move(self, torch.device("cpu"))
    nn.Module.float = lambda self: _convert(self, torch.float32)

    def pin(self, *a, **k):
        if _is(self):
            raise RuntimeError("cannot pin a CUDA tensor, only dense CPU tensors can be pinned")
        return self.clone()

    torch.Tensor.pin_memory = pin
    torch._C._set_only_lift_cpu_tensors(True)
    device = Device()
    device.__enter__()
    return device
