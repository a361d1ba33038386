"""Load TensorFlow.js graph models (a list of nodes in JSON, with weight files) as torch modules.

The operations of image networks are supported; others are refused by name. No other code of a file is run.
Weights stored as float16 are converted to float32, as in TensorFlow.js.

Letters: B batch, H W, C channel, I O channels in and out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError

Node = Mapping[str, Any]
KINDS = ("float32", "float16", "int32", "bool")
"""Data types of stored weights."""


class TfjsGraph(nn.Module):
    """Module of a TensorFlow.js graph that computes these outputs; its weights are buffers and move with the module."""

    def __init__(self, file: Path, outputs: tuple[str, ...]) -> None:
        super().__init__()
        nodes, weights = _read(file)
        self.outputs, self.order = outputs, _order(file, nodes, outputs)
        self.place = {name: f"weight_{index}" for index, name in enumerate(name for name in self.order if name in weights)}
        for name, buffer in self.place.items():
            self.register_buffer(buffer, torch.from_numpy(weights[name].copy()))
        self.nodes = {name: nodes[name] for name in self.order}
        for name in self.order:
            op = nodes[name]["op"]
            if op not in OPERATIONS and op not in ("Const", "Placeholder"):
                raise DataError(
                    f"node '{name}' is a {op}", file=file, expected=f"Const, Placeholder or {', '.join(sorted(OPERATIONS))}"
                )

    def forward(self, image_BHWC: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the layout of the graph: channels last."""
        values: dict[str, Tensor] = {}
        for name in self.order:
            node = self.nodes[name]
            if node["op"] == "Placeholder":
                values[name] = image_BHWC
            elif node["op"] == "Const":
                values[name] = self.get_buffer(self.place[name])
            else:
                values[name] = OPERATIONS[node["op"]](node, [values[_source(given)] for given in node.get("input", [])])
        return tuple(values[name] for name in self.outputs)


def _read(file: Path) -> tuple[dict[str, Node], dict[str, Any]]:
    try:
        plain = parse_json(file.read_text(encoding="utf-8"))
        nodes = {str(node["name"]): node for node in plain["modelTopology"]["node"]}
        groups = [([str(part) for part in group["paths"]], list(group["weights"])) for group in plain["weightsManifest"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"not read: {error}", file=file, expected="the JSON of a TensorFlow.js graph-model") from error
    weights: dict[str, Any] = {}
    for paths, entries in groups:
        parts = [file.with_name(Path(part).name) for part in paths]
        if missing := [part for part in parts if not part.is_file()]:
            raise DataError("its weights are not there", file=missing[0], expected=f"the file beside {file.name}")
        data, start = b"".join(part.read_bytes() for part in parts), 0
        for entry in entries:
            name, shape, kind = _weight(file, entry)
            size = math.prod(shape) * kind.itemsize
            if start + size > len(data):
                raise DataError(f"ends within weight '{name}'", file=parts[-1], expected=f"{size:,} bytes of it")
            value = np.frombuffer(data, kind, math.prod(shape), start).reshape(shape)
            weights[name] = value.astype(np.float32) if kind.kind == "f" else value
            start += size
    return nodes, weights


def _weight(file: Path, entry: Any) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
    """Return name, shape and stored data type of one entry of the manifest."""
    try:
        name, shape = str(entry["name"]), tuple(int(side) for side in entry["shape"])
        packed = entry.get("quantization") or {}
        stored = str(packed.get("dtype", entry["dtype"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"a weight is {str(entry)[:80]}", file=file, expected="its name, shape and dtype") from error
    if stored not in KINDS or "scale" in packed or min(shape, default=0) < 0:
        raise DataError(f"weight '{name}' is {stored} {list(shape)}", file=file, expected=f"{', '.join(KINDS)}, of no scale")
    return name, shape, np.dtype(stored)


def _order(file: Path, nodes: Mapping[str, Node], outputs: tuple[str, ...]) -> list[str]:
    """Return the nodes that the outputs depend on, in topological order."""
    ordered: dict[str, None] = {}
    waiting = [(name, False) for name in reversed(outputs)]
    while waiting:
        name, ready = waiting.pop()
        if ready:
            ordered[name] = None
        elif name not in ordered:
            if name not in nodes:
                raise DataError(
                    f"has no node '{name}'", file=file, expected=f"one of its nodes, such as '{next(reversed(list(nodes)), '')}'"
                )
            waiting.append((name, True))
            waiting += [(_source(given), False) for given in nodes[name].get("input", [])]
    return list(ordered)


def _source(given: str) -> str:
    return given.removeprefix("^").partition(":")[0]


# ---------------------------------------------------------------- operations


def _text(node: Node, name: str, default: str = "") -> str:
    value = node.get("attr", {}).get(name, {}).get("s")
    return default if value is None else base64.b64decode(value).decode()


def _ints(node: Node, name: str) -> list[int]:
    return [int(value) for value in node.get("attr", {}).get(name, {}).get("list", {}).get("i", [])]


def _convolved(node: Node, given: list[Tensor]) -> Tensor:
    """Apply a convolution, grouped if its name says depthwise, with its fused bias and activation."""
    image_BHWC, kernel, *more = given
    depthwise = "Depthwise" in node["op"]
    if _text(node, "data_format", "NHWC") != "NHWC" or _text(node, "padding") not in ("SAME", "VALID"):
        raise DataError(f"node '{node['name']}' pads or lays out otherwise", expected="NHWC, and SAME or VALID")
    stride, dilation = ((_ints(node, name) or [1, 1, 1, 1])[1:3] for name in ("strides", "dilations"))
    by_channel = kernel.permute(2, 3, 0, 1)  # [I, O, H, W], O for each channel alone where it is depthwise
    weight_OIHW = by_channel.flatten(0, 1)[:, None] if depthwise else by_channel.transpose(0, 1)
    image_BCHW = image_BHWC.permute(0, 3, 1, 2)
    if _text(node, "padding") == "SAME":
        image_BCHW = pad_same(image_BCHW, list(kernel.shape[:2]), stride, dilation)
    groups = image_BCHW.shape[1] // weight_OIHW.shape[1]
    fused = [base64.b64decode(each).decode() for each in node.get("attr", {}).get("fused_ops", {}).get("list", {}).get("s", [])]
    bias = more[0] if "BiasAdd" in fused else None
    made = F.conv2d(image_BCHW, weight_OIHW, bias, stride=stride, dilation=dilation, groups=groups).permute(0, 2, 3, 1)
    for name in fused:
        if name != "BiasAdd":
            if name not in ACTIVATIONS:
                raise DataError(f"node '{node['name']}' has {name} fused into it", expected=f"BiasAdd, {', '.join(ACTIVATIONS)}")
            made = ACTIVATIONS[name](made)
    return made


def pad_same(image_BCHW: Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> Tensor:
    """Pad as TensorFlow's SAME: ceil(side / stride) outputs, with an odd padding pixel at the end."""
    sides: list[int] = []
    for size, k, s, d in zip(image_BCHW.shape[:1:-1], kernel[::-1], stride[::-1], dilation[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(image_BCHW, sides)


def resize_bilinear_tf1(image_BHWC: Tensor, rows: int, columns: int) -> Tensor:
    """Resize bilinearly as in TensorFlow 1: pixel i of the output is at i * (old / new) of the input, not at its centre."""
    for axis, size in ((1, rows), (2, columns)):
        old = image_BHWC.shape[axis]
        at = torch.arange(size, device=image_BHWC.device, dtype=torch.float32) * (old / size)
        first = at.floor().long().clamp(max=old - 1)
        share = (at - first).to(image_BHWC.dtype).view([-1 if k == axis else 1 for k in range(4)])
        low, high = image_BHWC.index_select(axis, first), image_BHWC.index_select(axis, (first + 1).clamp(max=old - 1))
        image_BHWC = low + (high - low) * share
    return image_BHWC


def _resized(node: Node, given: list[Tensor]) -> Tensor:
    attributes = node.get("attr", {})
    if any(attributes.get(name, {}).get("b") for name in ("align_corners", "half_pixel_centers")):
        raise DataError(f"node '{node['name']}' aligns corners or centres", expected="neither")
    rows, columns = given[1].tolist()
    return resize_bilinear_tf1(given[0], int(rows), int(columns))


def _mean(node: Node, given: list[Tensor]) -> Tensor:
    return given[0].mean(given[1].flatten().tolist(), keepdim=bool(node.get("attr", {}).get("keep_dims", {}).get("b")))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Relu": F.relu, "Relu6": F.relu6, "Sigmoid": torch.sigmoid}
OPERATIONS: dict[str, Callable[[Node, list[Tensor]], Tensor]] = {
    **dict.fromkeys(("Conv2D", "_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"), _convolved),
    **{name: (lambda node, given, act=act: act(given[0])) for name, act in ACTIVATIONS.items()},  # type: ignore[misc]
    **dict.fromkeys(("Add", "AddV2"), lambda node, given: given[0] + given[1]),
    "Mul": lambda node, given: given[0] * given[1],
    "Mean": _mean,
    "ConcatV2": lambda node, given: torch.cat(given[:-1], int(given[-1])),
    "ResizeBilinear": _resized,
    "Identity": lambda node, given: given[0],
}
