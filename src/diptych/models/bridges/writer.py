"""A trained bridge for inference: captions, answers, and likelihoods of given answers.

Letters: B batch, L positions, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import LayerStates
from diptych.core.errors import ConfigError, RunError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.media import Pixels
from diptych.core.prompt import PromptLike, require_one_per_image, text_and_images_of_prompt, text_of_text_only_prompt
from diptych.data.media.clip import frame_places, rounded_places
from diptych.data.media.decode import decode
from diptych.data.media.tiles import ClosestTiles, PaddedTiles, tiles_from_json
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.layout import Layout, TextPiece, lay_out
from diptych.data.text.prompts.template import Template
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.adapter_scale import ScaledAdapters
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import QueryConnector, connector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.tile_packing import pack_tiles
from diptych.models.io.card import model_card
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint, in_single_precision, load_weights, parameters, read_config, write_model
from diptych.models.io.generation import StreamingGenerator, Write, require_room
from diptych.models.io.inference import evaluating, parts
from diptych.models.io.layer_states import split_layer_states
from diptych.models.io.streaming import TextPieceStreamer
from diptych.models.towers.towers import image_tower

Asked = tuple[tuple[ImageSource, ...], str]
"""The pictures of a request (empty for text only) and its text."""


class BridgeGenerator(StreamingGenerator):
    """A trained bridge as `Generator`, `Streamer`, `Ranker` and, before a decoder, `LayerReader`.

    template    what precedes an answer; `space` goes between it and the answer ("" if the template ends in one)
    length      maximum positions of a row, including those of the picture; a prompt that does not fit is refused
    pictures    that a prompt may have; those after the first come with it as `ImagePart(source=...)`
    request     the request where a prompt is ""
    sign        what ends an answer in place of the end mark, "" for the end mark
    role        of an answer what follows the last such word, as the released chats cut at "Assistant:"; "" for all of it. A stream,
                whose pieces nobody takes back, is not cut there, which it is not in the releases either
    ranks_end   whether the end mark counts where candidates of a decoder are scored
    reads       the tokenizer and the length of what a connector reads of the instruction, where it reads it; of a longer one the end
    folder      where the language model came from, when it is not saved with the rest
    frames      the pictures of a request are frames of one clip, of which this many are shown together, evenly spaced, some several times
                if there are fewer; 0: each is a picture of its own. `rounded`: chosen by `rounded_places`, as PLLaVA's release does
    tiles       each picture is cut into tiles, which stand one after the other, or are packed as in LLaVA 1.6 (`PaddedTiles`); None: it is
                shown as one
    lora        low-rank adapters of the language model whose strength may be chosen (`use_alpha`); None: none
    """

    kind: ClassVar[str] = "bridge"

    def __init__(
        self,
        bridge: Bridge,
        preprocess: Preprocess,
        vocabulary: LanguageVocabulary,
        template: Template,
        name: str,
        *,
        connector: dict[str, Any],
        length: int = 0,
        pictures: int = 1,
        space: str = " ",
        request: str = "",
        sign: str = "",
        role: str = "",
        ranks_end: bool = True,
        reads: tuple[Tokenizer, int] | None = None,
        folder: str = "",
        frames: int = 0,
        rounded: bool = False,
        tiles: ClosestTiles | PaddedTiles | None = None,
        lora: ScaledAdapters | None = None,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.bridge, self.preprocess, self.vocabulary, self.template, self.name = bridge, preprocess, vocabulary, template, name
        self.connector_spec, self.length, self.space, self.reads, self.folder = connector, length, space, reads, folder
        self.request, self.sign, self.role, self.pictures, self.card = request, sign, role, pictures, card or {}
        self.ranks_end, self.frames, self.rounded, self.tiles, self.lora = ranks_end, frames, rounded, tiles, lora

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.bridge, self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        used = {"alpha": self.lora.used} if self.lora else {}
        return {"preprocess": self.preprocess.to_json(), "template": self.template.text, **used}

    # ------------------------------------------------------------ use

    @one_or_many
    def generate(
        self,
        images: Sequence[ImageSource | None],
        prompts: Sequence[PromptLike],
        *,
        max_tokens: int = 64,
        batch_size: int = 32,
        **options: Any,
    ) -> list[str]:
        """An answer for each image, or without one (None); with "" the template alone is the prompt. `options` are those of
        transformers' `generate`."""
        requests = self._asked(images, prompts)

        def write(rows: Sequence[Asked]) -> list[str]:
            embed_BLD, layout = self._read(rows, max_tokens)
            written: list[str] = self.bridge.language.write(
                embed_BLD, layout, self.vocabulary, max_tokens=max_tokens, ends=self._ends, **options
            )
            return written

        device = next(self.bridge.parameters()).device
        with torch.no_grad(), evaluating(self.bridge):
            blocks = batched(requests, batch_size, device, write)
        return [self._answer(text) for block in blocks for text in block]

    @property
    def _ends(self) -> tuple[int, ...]:
        """The token of the sign, where it is one; a longer one is cut off after."""
        ids = self.vocabulary.pieces(self.sign) if self.sign else []
        return tuple(ids) if len(ids) == 1 else ()

    def _answer(self, text: str) -> str:
        """Generated text before the stop sign and after the last role marker."""
        before = text.partition(self.sign)[0] if self.sign.strip() else text
        return before.rpartition(self.role)[2].strip() if self.role else before.strip()

    def _written(self, ids: Sequence[int]) -> str:
        """The text of an answer before its sign, as far as it may be sent."""
        text = self.vocabulary.decode(ids)
        return text.partition(self.sign)[0].strip() if self.sign.strip() else text

    @property
    def network(self) -> Bridge:
        return self.bridge

    def _streamer(self, on_text: Callable[[str], bool]) -> TextPieceStreamer:
        ends = {self.vocabulary.end_id, *self._ends}
        return TextPieceStreamer(self._written, ends, on_text, sign=self.sign.strip() and self.sign)

    def _generation(self, image: ImageSource | None, prompt: PromptLike, max_tokens: int) -> tuple[Write, int]:
        embed_1LD, layout = self._read(self._asked([image], [prompt]), max_tokens)
        write = partial(self.bridge.language.write, embed_1LD, layout, self.vocabulary, max_tokens=max_tokens, ends=self._ends)
        return write, int(layout.id_BL.shape[1])

    def _read(self, rows: Sequence[Asked], max_tokens: int) -> tuple[Tensor, Layout]:
        """Pictures and prompts as the language model gets them; refused where no room is left for this many tokens."""
        picture_NKD, count_B = self._pictures(rows)
        layout = self._laid(picture_NKD, count_B, [words for _, words in rows], None)
        require_room(int(layout.id_BL.shape[1]), max_tokens, self.length, model=f"'{self.name}'")
        embed_BLD, _ = self.bridge.embed(picture_NKD, layout, torch.tensor(count_B, device=layout.id_BL.device))
        return embed_BLD, layout

    @one_or_many
    def answer_nll(
        self,
        images: Sequence[ImageSource | None],
        prompts: Sequence[PromptLike],
        candidates: Sequence[Sequence[str]],
        *,
        batch_size: int = 32,
    ) -> list[npt.NDArray[np.float64]]:
        """For each image [C, 2]: nats of each candidate over its tokens and the end mark (`ranks_end`), and how many those are."""
        requests = self._asked(images, prompts)
        require_one_per_image("lists of candidates", candidates, images)
        rows = []
        with torch.no_grad(), evaluating(self.bridge):
            for row, answers in zip(requests, candidates, strict=True):
                (picture_MKD, counts), words = self._pictures([row]), row[1]
                pairs = []
                for some in parts(list(answers), batch_size):
                    count_B = counts * len(some)
                    picture_NKD = None if picture_MKD is None else picture_MKD.repeat(len(some), 1, 1)
                    layout = self._laid(picture_NKD, count_B, [words] * len(some), some)
                    written = self.bridge.scored(picture_NKD, layout, torch.tensor(count_B, device=layout.id_BL.device))
                    pairs.append(torch.stack([written.nll_B, written.count_B], 1).double().cpu().numpy())
                rows.append(np.concatenate(pairs) if pairs else np.zeros((0, 2)))
        return rows

    def first_token_probs(
        self,
        images: Sequence[ImageSource | None],
        prompts: Sequence[PromptLike],
        words: Sequence[str],
        *,
        batch_size: int = 32,
    ) -> npt.NDArray[np.float64]:
        """[N, W]: how likely each word is the first token of an answer; 0 for one that the vocabulary spells with several tokens."""
        ids = [self.vocabulary.pieces(self.space + word) for word in words]
        chosen = [token_ids[0] if len(token_ids) == 1 else -1 for token_ids in ids]
        rows = []
        with torch.no_grad(), evaluating(self.bridge):
            for some in parts(self._asked(images, prompts), batch_size):
                picture_NKD, count_B = self._pictures(some)
                layout = self._laid(picture_NKD, count_B, [text for _, text in some], [words[0]] * len(some))
                embed_BLD, _ = self.bridge.embed(picture_NKD, layout, torch.tensor(count_B, device=layout.id_BL.device))
                logit_AV, _, row_A = self.bridge.language.answers(embed_BLD, layout)
                first_A = torch.cat([row_A.new_ones(1, dtype=torch.bool), row_A[1:] != row_A[:-1]])
                chance_BV = logit_AV[first_A].double().softmax(1)
                rows.append(chance_BV[:, [max(0, token) for token in chosen]].cpu().numpy())
        chance_NW: npt.NDArray[np.float64] = np.concatenate(rows) * np.array([token >= 0 for token in chosen])
        return chance_NW

    def use_alpha(self, alpha: float) -> None:
        """Sets the strength of the language model's adapters: 0 is the model without them, `lora.alpha` the value of training."""
        if self.lora is None:
            raise ConfigError(f"'{self.name}' has no adapters of its own (expected a model such as pllava)")
        self.lora = self.lora.apply(self.bridge.language.inner, alpha)
        self.__dict__.pop("fingerprint", None)

    def text_nll(self, texts: Sequence[str], *, batch_size: int = 32) -> npt.NDArray[np.float64]:
        """[N, 2]: negative log-likelihood of each text without a picture in nats, summed over its tokens and the end token, and
        their number. It measures what the language model has forgotten."""
        batches = [np.zeros((0, 2))]
        with torch.no_grad(), evaluating(self.bridge):
            for some in parts(texts, batch_size):
                rows = [[*([] if self.vocabulary.start_ids else [TextPiece(" ")]), TextPiece(text, answer=True)] for text in some]
                layout = lay_out(rows, self.vocabulary, length=self.length).to(next(self.bridge.parameters()).device)
                written = self.bridge.scored(None, layout)
                batches.append(torch.stack([written.nll_B, written.count_B], 1).double().cpu().numpy())
        return np.concatenate(batches)

    @property
    def depth(self) -> int:
        """Layers of the language model."""
        return self.bridge.language.depth

    def _layer_states(
        self, images: Sequence[ImageSource], texts: Sequence[str], layers: Sequence[int], template: str, batch_size: int
    ) -> Iterator[LayerStates]:
        before = Template(template) if template else self.template
        for some in parts(list(zip(images, texts, strict=True)), batch_size):
            with torch.no_grad(), evaluating(self.bridge):
                picture_NKD, count_B = self._pictures([((image,), "") for image, _ in some])
                assert picture_NKD is not None
                slots = [picture_NKD.shape[1] * count for count in count_B]
                rows = [before.pieces(count, "", self.space + text) for count, (_, text) in zip(slots, some, strict=True)]
                layout = lay_out(rows, self.vocabulary, length=self.length).to(picture_NKD.device)
                embed_BLD, _ = self.bridge.embed(picture_NKD, layout, torch.tensor(count_B, device=picture_NKD.device))
                states = self.bridge.language.states(embed_BLD, layout)
                layer_states = split_layer_states(
                    torch.stack([states[layer - 1] for layer in layers]), layout.slot_BL, layout.mask_BL
                )
            yield from layer_states

    def _asked(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike]) -> list[Asked]:
        require_one_per_image("prompts", prompts, images)
        requests: list[Asked] = []
        for image, prompt in zip(images, prompts, strict=True):
            if image is None:
                requests.append(((), text_of_text_only_prompt(prompt, model=self.name) or self.request))
                continue
            words, more = text_and_images_of_prompt(prompt, model=self.name, most=self.pictures)
            requests.append(((image, *more), words or self.request))
        return requests

    def _pictures(self, rows: Sequence[Asked]) -> tuple[Tensor | None, list[int]]:
        """[N, K, D]: those of a row one after the other, and how many each row has: images, tiles of them, single tokens of packed tiles,
        or one clip; None if no row has one."""
        if not any(images for images, _ in rows):
            return None, [0] * len(rows)
        weight = next(self.bridge.parameters())  # pictures move to its device and precision
        if self.frames:
            clips_of = [images for images, _ in rows if images]
            chosen = [[images[index] for index in self.frame_numbers(len(images))] for images in clips_of]
            clips = [self.preprocess([decode(image, exact=True) for image in images]) for images in chosen]
            return self.bridge.picture(torch.stack(clips).to(weight)), [int(bool(images)) for images, _ in rows]
        shown = [[decode(image, exact=True) for image in images] for images, _ in rows]
        if isinstance(self.tiles, PaddedTiles):
            packed = [[self._packed(image, self.tiles) for image in images] for images in shown]
            token_ND = torch.cat([token_KD for row in packed for token_KD in row])
            return token_ND[:, None], [sum(map(len, row)) for row in packed]
        if self.tiles:
            shown = [[tile.pixels_HWC for image in images for tile in self.tiles(image)] for images in shown]
        count_B = [len(images) for images in shown]
        image_NCHW = self.preprocess([image for images in shown for image in images]).to(weight)
        if self.reads is None:
            return self.bridge.picture(image_NCHW), count_B
        tokenizer, length = self.reads
        encoded = tokenizer.encode([words for images, words in rows for _ in images], length, keep="last")
        given = (torch.from_numpy(array).to(weight.device) for array in (encoded.ids_BL, encoded.mask_BL))
        return self.bridge.picture(image_NCHW, *given), count_B

    def frame_numbers(self, count: int) -> list[int]:
        """Which of `count` frames of a clip are shown."""
        numbers: list[int] = (rounded_places if self.rounded else frame_places)(count, self.frames).tolist()
        return numbers

    def _packed(self, image_HWC: Pixels, rule: PaddedTiles) -> Tensor:
        """Tokens of an image and its tiles as one sequence [K, D]."""
        height, width = image_HWC.shape[:2]
        columns, rows = rule.grid(width, height)
        tile_TCHW = self.preprocess([tile.pixels_HWC for tile in rule(image_HWC)]).to(next(self.bridge.parameters()))
        newline_D = getattr(self.bridge.connector, "newline_D", None)
        token_TPD = self.bridge.picture(tile_TCHW)
        return pack_tiles(token_TPD, width=width, height=height, columns=columns, rows=rows, newline_D=newline_D).token_KD

    def _laid(
        self, picture_NKD: Tensor | None, count_B: Sequence[int], prompts: Sequence[str], answers: Sequence[str] | None
    ) -> Layout:
        tokens = 0 if picture_NKD is None else picture_NKD.shape[1]
        rows = [self.template.pieces(tokens * count, prompt) for count, prompt in zip(count_B, prompts, strict=True)]
        ends = not self.sign and (self.ranks_end or self.bridge.language.reads_and_writes)
        for row, answer in zip(rows, answers or (), strict=answers is not None):
            row.append(TextPiece(self.space + answer + self.sign, answer=True, ends=ends))
        layout = lay_out(rows, self.vocabulary, length=self.length, side="left" if answers is None else "right")
        if layout.truncated:
            raise ConfigError(
                f"a candidate is longer than the {self.length} tokens of '{self.name}' allow (expected a shorter one)"
            )
        return layout.to(next(self.bridge.parameters()).device)

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder. A language model that came
        from a folder stays there and is identified by its path and the hash of its weights."""
        bridge = self.bridge
        config: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": bridge.encoder.spec,
            "connector": self.connector_spec,
            "language": bridge.language.config,
            "language_folder": self.folder,
            "template": self.template.text,
            "space": self.space,
            **({"request": self.request} if self.request else {}),
            **({"sign": self.sign} if self.sign else {}),
            **({"role": self.role} if self.role else {}),
            **({} if self.ranks_end else {"ranks_end": False}),
            **({"pictures": self.pictures} if self.pictures > 1 else {}),
            **({"frames": self.frames} if self.frames else {}),
            **({"rounded": True} if self.rounded else {}),
            **({"tiles": asdict(self.tiles)} if self.tiles else {}),
            **({"lora": asdict(self.lora)} if self.lora else {}),
            **({"visual_experts": True} if bridge.language.has_visual_experts else {}),
            "start": bool(self.vocabulary.start_ids),
            **({"start_behind": True} if self.vocabulary.start_behind else {}),
            **({"end_starts": True} if self.vocabulary.end_starts else {}),
            **({"closes": True} if self.vocabulary.close_ids else {}),
            "text_length": self.length,
            "blind": bridge.blind,
            "preprocess": self.preprocess.to_json(),
            "card": {"description": "Writes about an image: a language model that reads it through a connector.", **self.card},
        }
        if self.reads is not None:
            config["reads"] = {"tokenizer": self.reads[0].to_json(), "length": self.reads[1]}
        adapted = bridge.language.adapted()
        if bridge.language.ratio:
            config["adapters"] = {"ratio": bridge.language.ratio}
        if bridge.language.calibrated:
            config["calibrated"] = True
        if self.folder:
            as_given = bridge.language if adapted is None else LanguageModel.from_folder(self.folder)
            config["language_hash"] = fingerprint(in_single_precision(as_given), {})
        stored = torch.nn.ModuleDict({"encoder": bridge.encoder, "connector": bridge.connector})
        if not self.folder:
            stored["language"] = bridge.language
        elif adapted is not None:
            stored["adapted"] = adapted
        readme = model_card(self.name, config, parameters(bridge))
        write_model(folder, stored, config, readme, self.vocabulary.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Raises RunError if the separate language model folder has changed."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            encoder = image_tower(**config["image_tower"])
            away = config["language_folder"]
            act = config["language"].get("dense_act_fn", "")
            language = LanguageModel.from_folder(away, act=act) if away else LanguageModel(config=config["language"])
            spec = dict(config["connector"])
            made = connector(spec.pop("kind"), encoder.token_width, language.width, **spec)
            if away and fingerprint(in_single_precision(language), {}) != config["language_hash"]:
                raise RunError(f"{away} holds another language model than the one that '{config['name']}' was trained with")
            if config.get("visual_experts"):
                language.add_visual_experts()
            lora = ScaledAdapters.from_json(config["lora"]) if "lora" in config else None
            if lora is not None:
                lora.add(language.inner)
                lora.apply(language.inner, lora.used)
            if "adapters" in config:
                language.adapt(**config["adapters"])
            if config.get("calibrated"):
                language.calibrate()
            bridge = Bridge(encoder, made, language, blind=config["blind"])
        stored = torch.nn.ModuleDict({"encoder": encoder, "connector": made})
        if not away:
            stored["language"] = language
        elif (adapted := language.adapted()) is not None:
            stored["adapted"] = adapted
        load_weights(stored, folder)
        reads = None
        if isinstance(made, QueryConnector) and made.reads_text:
            reads = (Tokenizer.from_spec(config["reads"]["tokenizer"]), int(config["reads"]["length"]))
        return cls(
            bridge.eval(),
            Preprocess.from_json(config["preprocess"]),
            LanguageVocabulary(
                Tokenizer.load(folder),
                start=config["start"],
                start_behind=config.get("start_behind", False),
                end_starts=config.get("end_starts", False),
                closes=config.get("closes", False),
            ),
            Template(config["template"]),
            config["name"],
            connector=config["connector"],
            length=config["text_length"],
            pictures=config.get("pictures", 1),
            space=config["space"],
            request=config.get("request", ""),
            sign=config.get("sign", ""),
            role=config.get("role", ""),
            ranks_end=config.get("ranks_end", True),
            reads=reads,
            folder=away,
            frames=config.get("frames", 0),
            rounded=config.get("rounded", False),
            tiles=tiles_from_json(config["tiles"]) if "tiles" in config else None,
            lora=lora,
            card=config.get("card"),
        )
