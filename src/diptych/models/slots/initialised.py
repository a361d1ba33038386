"""Layers with the starts that SLATE's code gives them: Xavier or Kaiming weights, zero biases."""

from __future__ import annotations

from typing import Literal

from torch import nn

Start = Literal["xavier", "kaiming"]


def linear(inputs: int, outputs: int, *, bias: bool = True, start: Start = "xavier", gain: float = 1.0) -> nn.Linear:
    """A linear map with uniform Xavier weights times `gain`, or Kaiming's for ReLU."""
    made = nn.Linear(inputs, outputs, bias)
    if start == "kaiming":
        nn.init.kaiming_uniform_(made.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(made.weight, gain)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, start: Start = "xavier"
) -> nn.Conv2d:
    """A convolution with uniform Xavier or Kaiming weights and zero biases."""
    made = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    if start == "kaiming":
        nn.init.kaiming_uniform_(made.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(made.weight)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def rectified(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """A convolution with Kaiming weights, and ReLU."""
    return nn.Sequential(convolution(inputs, outputs, kernel, stride=stride, padding=padding, start="kaiming"), nn.ReLU())
