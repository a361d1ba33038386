"""Adapters inside a frozen language model, added by hooks: its modules and parameter names do not change.

Letters: B batch, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from diptych.core.errors import ConfigError

KNOWN = (("self_attn", "input_layernorm", "post_attention_layernorm"), ("attn", "ln_1", "ln_2"))
"""What the attention of a layer, the norm before it, and the norm after its residual are called: LLaMA and its kin, GPT-2."""


class BottleneckAdapter(nn.Module):
    """h + up GELU(down h), for every token, where h is the sum of a layer's attention and what entered the layer (ArtGPT-4, 2305.07490).

    The sum is made inside the layer, so the adapter is added to what attention gives: attention + up GELU(down(entered + attention)).

    width       D
    ratio       the bottleneck has D / ratio dimensions
    zero_start  `up` starts at zero, so that the language model starts bit-identical; else it has the default initialisation of a
                linear layer, as released
    """

    def __init__(self, width: int, *, ratio: int = 4, zero_start: bool = True) -> None:
        super().__init__()
        self.down, self.act, self.up = nn.Linear(width, width // ratio), nn.GELU(), nn.Linear(width // ratio, width)
        if zero_start:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
        self._entered: Tensor | None = None

    def remember(self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A hook before the layer."""
        self._entered = given[0] if given else named["hidden_states"]

    def change(self, attention: nn.Module, given: tuple[Any, ...], answer: Any) -> Any:
        """A hook after the layer's attention."""
        whole = isinstance(answer, Tensor)
        attended_BLD: Tensor = answer if whole else answer[0]
        entered_BLD, self._entered = self._entered, None
        assert entered_BLD is not None
        changed_BLD = attended_BLD + self.up(self.act(self.down(entered_BLD + attended_BLD)))
        return changed_BLD if whole else (changed_BLD, *answer[1:])


def insert_adapters(inner: nn.Module, width: int, *, ratio: int = 4, zero_start: bool = True) -> nn.ModuleList:
    """Adds a bottleneck after the attention of every layer; returns the list of them, which has to be saved with the model.

    Raises ConfigError for language models whose layers are built otherwise.
    """
    adapters = nn.ModuleList()
    for layer in layers_of(inner):
        made = BottleneckAdapter(width, ratio=ratio, zero_start=zero_start)
        layer.register_forward_pre_hook(made.remember, with_kwargs=True)
        getattr(layer, _names(layer)[0]).register_forward_hook(made.change)
        adapters.append(made)
    return adapters


def norm_gains(inner: nn.Module) -> dict[str, nn.Parameter]:
    """The gains that ArtGPT-4 trains, by name: of the norm after attention in every layer, of the one before it in every second, from the
    first on."""
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    gains = {}
    for number, layer in enumerate(layers_of(inner)):
        _, before, behind = _names(layer)
        for norm in (behind, *([before] if number % 2 == 0 else [])):
            gain = getattr(layer, norm).weight
            gains[names[id(gain)]] = gain
    return gains


def layers_of(inner: nn.Module) -> Iterator[nn.Module]:
    """The layers of a decoder in order. Raises ConfigError if none is of a known form."""
    supported = False
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) and _named(module[0]):
            supported = True
            yield from module
    if not supported:
        kind = getattr(getattr(inner, "config", None), "model_type", type(inner).__name__)
        raise ConfigError(f"adapters do not fit the layers of '{kind}' (expected LLaMA, Mistral, Qwen2 or GPT-2)")


def _named(layer: nn.Module) -> tuple[str, str, str] | None:
    if hasattr(layer, "pre_feedforward_layernorm"):  # Gemma norms what attention gives before it is added
        return None
    return next((names for names in KNOWN if all(hasattr(layer, name) for name in names)), None)


def _names(layer: nn.Module) -> tuple[str, str, str]:
    names = _named(layer)
    assert names is not None
    return names


def parameters_of(adapters: nn.ModuleList, gains: dict[str, nn.Parameter]) -> nn.ModuleDict:
    """Adapters and gains as one module that shares their parameters: the part of the language model that has to be saved."""
    named = nn.ParameterDict({name.replace(".", "/"): gain for name, gain in gains.items()})
    return nn.ModuleDict({"adapters": adapters, "gains": named})
