"""Fine-tuning settings: adapters, frozen parts, layer-wise learning rates, distillation, weight-space blending."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Ways to tune, as data. Any recipe can be trained with any of them; a recipe whose paper tunes so names its own in `Recipe.tuning`.

    lora          low-rank adapters: a rank, and after a colon which modules, as patterns: "16", "4:qkv,mlp_in"; "" trains the weights
                  themselves. Without patterns: every linear map of both towers, and the convolutions of a tower made of them
    lora_alpha    adapters are multiplied by lora_alpha / rank; 0 takes the rank, so that they count as they are
    lora_dropout  dropout before the adapters
    lora_random   pattern of modules whose adapters start random in both maps, so that the first step is not that of the weights; those of
                  all others, and of all with "", start as nothing
    lora_kernel   pattern of convolutions whose adapter is laid out as loralib's, A [rank * side, D * side] and B [E * side, rank * side],
                  where kernels have that side; those of all others, and of all with "", have rank `rank`
    lora_full     pattern of parameters that are trained in full beside adapters; what does not come from --init always is
    freeze        patterns of parameter names that stay as they are; their batch norms keep their statistics
    layer_decay   learning rate of a layer as a share of the one above it (0.65 to 0.9 are usual); heads have the whole rate; 1 is off
    head_first    that many steps train the heads alone, before all is trained with a schedule of its own
    head          pattern of what counts as a head; "" is everything outside both towers
    distill       stay close to a teacher: "start" is the model as it was at the beginning, anything else an address that `load` opens
    distill_weight  factor of that loss, beside the recipe's own
    distill_scale   what multiplies the teacher's similarities; 0 takes the teacher's own temperature
    average_weights  decay of an exponential moving average of the weights, such as 0.999, which model/ gets at the end; 0 keeps none.
                  Checkpoints hold both; evaluations inside the run see the raw weights
    blend         at the end the weights are (1 - blend) * start + blend * end; 1 keeps the end
    keep_positions  places of the text that a longer --text-length leaves as they are, the others are stretched as in Long-CLIP (there:
                  20 of 77); 0 stretches all alike, as open_clip does
    """

    lora: str = ""
    lora_alpha: float = 0.0
    lora_dropout: float = 0.0
    lora_random: str = ""
    lora_kernel: str = ""
    lora_full: str = ""
    freeze: tuple[str, ...] = ()
    layer_decay: float = 1.0
    head_first: int = 0
    head: str = ""
    distill: str = ""
    distill_weight: float = 1.0
    distill_scale: float = 0.0
    average_weights: float = 0.0
    blend: float = 1.0
    keep_positions: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay} (expected above 0 and at most 1)")
        if not 0 <= self.average_weights < 1:
            raise ConfigError(f"average_weights is {self.average_weights} (expected at least 0 and below 1, as 0.999)")
        if not 0 < self.blend <= 1:
            raise ConfigError(f"blend is {self.blend} (expected above 0 and at most 1: the share of the trained weights)")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout is {self.lora_dropout} (expected at least 0 and below 1)")
        for name in ("lora_alpha", "head_first", "distill_weight", "distill_scale", "keep_positions"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected 0 or more)")
        if not self.lora and (self.lora_alpha or self.lora_dropout or self.lora_random or self.lora_kernel or self.lora_full):
            raise ConfigError(
                "lora_alpha, lora_dropout, lora_random, lora_kernel and lora_full are options of adapters: say also --lora RANK"
            )
        if self.head and not self.head_first:
            raise ConfigError("head says what --head-first trains first: say also for how many steps")
        if self.distill_scale and not self.distill:
            raise ConfigError("distill_scale belongs to a teacher: say also --distill start, or --distill ADDRESS")

    def over(self, own: Tuning) -> Tuning:
        """This one's values where they are not the defaults, else those of `own` (a recipe's)."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return replace(own, **given)

    @property
    def changes_start(self) -> bool:
        """True if the initial weights are needed again after training: adapters are added to them, blending mixes with them."""
        return bool(self.lora) or self.blend < 1
