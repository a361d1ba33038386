"""The dual encoder: published sizes and starts, its temperature, parity with open_clip, data-parallel and sharded wrappers."""

from __future__ import annotations

import importlib
import math
import pkgutil
from pathlib import Path

import pytest
import torch
from joined_processes import on_processes

from diptych.core.errors import ConfigError
from diptych.models import pairs
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.layers.transformer import Block
from diptych.models.pairs.dual_encoder import DualEncoder, encoder_of
from diptych.models.pairs.encoders.text_set_encoder import TextSetEncoder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.train.weights import copy_matching_tensors


def small(**changes: float | None) -> DualEncoder:
    image = image_tower("vit_tiny", image_size=32, width=16, layers=1, heads=2)
    text = text_tower("text_tiny", vocab_size=30, width=16, layers=1, heads=2)
    return DualEncoder(image, text, width=8, **changes)


def inputs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    image_BCHW = torch.randn(count, 3, 32, 32, generator=generator)
    text_BL = torch.randint(1, 30, (count, 6), generator=generator)
    return image_BCHW, text_BL, torch.arange(6).expand(count, 6) < torch.arange(count)[:, None] % 4 + 2


def test_published_parameter_count_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = DualEncoder(image_tower("vit_b32"), text_tower("text_clip", vocab_size=49408, eot_id=49407), width=512)
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313


def test_features_are_unit_and_scalars_have_a_dimension() -> None:
    pairs = small()(*inputs())
    for features_ND in (pairs.image_ND, pairs.text_ND):
        assert features_ND.shape == (4, 8)
        torch.testing.assert_close(features_ND.norm(dim=1), torch.ones(4))
    assert pairs.scale.shape == (1,)
    assert pairs.scale.item() == pytest.approx(1 / 0.07)
    assert pairs.bias is None
    sigmoid = small(scale=10.0, bias=-10.0)(*inputs())
    assert sigmoid.bias is not None
    assert (sigmoid.scale.item(), sigmoid.bias.item()) == (pytest.approx(10.0), -10.0)


def test_every_parameter_gets_a_gradient() -> None:
    model = small(bias=-10.0)
    pairs = model(*inputs())
    (pairs.scale * pairs.image_ND @ pairs.text_ND.T + pairs.bias).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_temperature_is_clamped_where_it_is_stored() -> None:
    model = small()
    for raw, kept in ((9.0, math.log(100)), (-3.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            model.log_scale.fill_(raw)
        model.clamp_scale_()
        assert model.log_scale.item() == pytest.approx(kept)
    with torch.no_grad():
        model.log_scale.fill_(math.log(100))
    (grad,) = torch.autograd.grad(model(*inputs()).scale.sum(), model.log_scale)
    assert grad.item() == pytest.approx(100)  # alive at the bound
    with pytest.raises(ConfigError, match=r"scale 0\.5 is out of bounds"):
        small(scale=0.5)


def test_float64_stays_float64() -> None:
    image_BCHW, text_BL, mask_BL = inputs()
    assert small().double()(image_BCHW.double(), text_BL, mask_BL).image_ND.dtype == torch.float64


@pytest.mark.slow
def test_open_clip_weights_give_open_clip_embeddings() -> None:
    import open_clip

    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-B-32").eval()
    text = text_tower("text_clip", vocab_size=49408, eot_id=49407)
    ours = DualEncoder(image_tower("vit_b32"), text, width=512).eval()
    ours.load_state_dict(from_open_clip(theirs.state_dict()))
    image_BCHW = torch.randn(2, 3, 224, 224)
    text_BL = open_clip.get_tokenizer("ViT-B-32")(["a cat", "a photo of a dog on a mat"])
    with torch.no_grad():
        pairs = ours(image_BCHW, text_BL)
        torch.testing.assert_close(pairs.image_ND, theirs.encode_image(image_BCHW, normalize=True), atol=1e-4, rtol=0)
        torch.testing.assert_close(pairs.text_ND, theirs.encode_text(text_BL, normalize=True), atol=1e-4, rtol=0)
        assert pairs.scale.item() == pytest.approx(theirs.logit_scale.exp().item())


def test_a_small_open_clip_gives_the_same_embeddings() -> None:
    import open_clip

    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2}
    words = {"context_length": 12, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2}
    theirs = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=words).eval()
    image = image_tower("vit_b32", image_size=32, patch=16, width=64, layers=2, heads=1)
    text = text_tower("text_clip", vocab_size=50, eot_id=49, length=12, width=32, heads=4, layers=2)
    ours = DualEncoder(image, text, width=16).eval()
    ours.load_state_dict(from_open_clip(theirs.state_dict()))
    image_BCHW, text_BL = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 49, 0, 0], [1, 49, 0, 0, 0]])
    padded_BL = torch.nn.functional.pad(text_BL, (0, 7))
    torch.testing.assert_close(ours.encode_image(image_BCHW), theirs.encode_image(image_BCHW, normalize=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.encode_text(text_BL), theirs.encode_text(padded_BL, normalize=True), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"tensor 'visual\.trunk\.stem' does not belong to"):
        from_open_clip({"visual.trunk.stem": torch.zeros(1)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_step_on_cuda_equals_one_on_cpu() -> None:
    after = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = small(bias=-10.0).to(device)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        pairs = model(*(part.to(device) for part in inputs()))
        loss = (pairs.scale * pairs.image_ND @ pairs.text_ND.T + pairs.bias).square().mean()
        loss.backward()
        optimiser.step()
        after[device] = [loss, *model.parameters()]
    for ours, theirs in zip(after["cpu"], after["cuda"], strict=True):
        torch.testing.assert_close(theirs.detach().cpu(), ours.detach(), atol=1e-3, rtol=1e-3)


def _rank(rank: int, world: int) -> bool:
    """Gradients and clamp of a model with one learned number, plain against both wrappers, on two processes."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    grads = {}
    for wrapper in ("plain", "ddp", "fsdp"):
        torch.manual_seed(0)
        model = small(bias=-10.0).double()
        module = model
        if wrapper == "ddp":
            module = DistributedDataParallel(model)
        if wrapper == "fsdp":
            for block in [m for m in model.modules() if isinstance(m, Block)]:
                fully_shard(block)
            fully_shard(model)
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        image_BCHW, *texts = inputs(4)
        batch = (image_BCHW.double(), *texts)
        pairs = module(*(batch if wrapper == "plain" else [part[2 * rank : 2 * rank + 2] for part in batch]))
        own = (pairs.scale * pairs.image_ND.mul(pairs.text_ND).sum(1) + pairs.bias).square().mean()
        own.backward()
        full = {}
        for name, parameter in model.named_parameters():
            grad = parameter.grad
            assert grad is not None, name
            full[name] = grad.full_tensor() if isinstance(grad, DTensor) else grad
        grads[wrapper] = full
        with torch.no_grad():
            model.log_scale.fill_(9.0)
        model.clamp_scale_()
        clamped = model.log_scale.full_tensor() if isinstance(model.log_scale, DTensor) else model.log_scale
        assert clamped.item() == pytest.approx(math.log(100))
    for wrapper in ("ddp", "fsdp"):
        for name, expected in grads["plain"].items():
            torch.testing.assert_close(grads[wrapper][name], expected, atol=1e-12, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    return True


def test_two_processes_wrapped_or_sharded_have_the_gradient_of_one(tmp_path: Path) -> None:
    assert on_processes(_rank, tmp_path) == [True, True], "both processes reached the end of their comparisons"


def holding() -> TextSetEncoder:
    of = small()
    return TextSetEncoder(of.image_tower, of.text_tower, width=8, patches=True)


def test_the_encoder_of_a_model_is_the_model_or_what_it_holds() -> None:
    alone, held = small(), holding()
    assert encoder_of(alone) is alone
    assert encoder_of(held) is held.encoder
    with pytest.raises(ConfigError, match="Linear is not a dual encoder"):
        encoder_of(torch.nn.Linear(2, 2))


def test_weights_of_a_dual_encoder_start_a_model_that_holds_one() -> None:
    """`--init RUN` names a deployed model, whose tensors have no prefix."""
    given, model = small().state_dict(), holding()
    assert len(copy_matching_tensors(given, model)) == len(given)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, given[name]), name


def test_what_is_a_dual_encoder_is_called_as_one() -> None:
    for module in pkgutil.walk_packages(pairs.__path__, f"{pairs.__name__}."):
        importlib.import_module(module.name)
    importlib.import_module("diptych.models.people.part_encoder")
    assert {kind.__name__ for kind in DualEncoder.__subclasses__()} == {"GrowingEncoder", "PartEncoder", "TwoTokenEncoder"}
    assert all("forward" not in vars(kind) for kind in DualEncoder.__subclasses__())


@pytest.mark.parametrize(("causal", "pooling"), [(True, "eot"), (False, "mean"), (False, "eot"), (True, "mean")])
def test_padding_of_the_whole_batch_is_left_out_and_changes_no_vector_and_no_gradient(causal: bool, pooling: str) -> None:
    torch.manual_seed(0)
    image = image_tower("vit_micro")
    text = text_tower("text_micro", vocab_size=50, eot_id=49, length=24, causal=causal, pooling=pooling)
    model = DualEncoder(image, text, width=16).double()
    ids_BL, last_B = torch.randint(1, 49, (3, 24)), torch.tensor([4, 9, 2])
    mask_BL = torch.arange(24) <= last_B[:, None]
    ids_BL = ids_BL.scatter(1, last_B[:, None], 49).masked_fill(~mask_BL, 0)
    given: list[int] = []
    handle = text.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0].shape[1]))
    found = {}
    for name in ("trimmed", "whole"):
        if name == "whole":
            model._trimmed = lambda text, mask_BL: (text, mask_BL)  # type: ignore[method-assign]
        vector_BD = model.encode_text(ids_BL, mask_BL)
        weight_BD = torch.arange(48.0, dtype=torch.float64).view(3, 16).sin()
        found[name] = [vector_BD, *torch.autograd.grad((vector_BD * weight_BD).sum(), list(text.transformer.parameters()))]
    handle.remove()
    assert given == [10, 24]
    for got, want in zip(found["trimmed"], found["whole"], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_tower_that_reads_padding_gets_all_of_it() -> None:
    text = text_tower("text_micro", vocab_size=50, length=24, pooling="last", pad_id=0)
    model = DualEncoder(image_tower("vit_micro"), text, width=16)
    mask_BL = (torch.arange(24) < 5).expand(2, -1)
    assert model._trimmed(torch.ones(2, 24, dtype=torch.long), mask_BL)[0].shape[1] == 24
