"""A model behind an address as a `Generator`: vLLM, llama.cpp's server, `diptych serve`, a service that is paid for.

Every answer is kept on disk under the hash of its request as soon as it is there, so that a killed run goes on with what is
missing, and the same question is paid for once. Behind one address and name there may be another model tomorrow: `cache=off`
asks again.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from diptych.core.config import config_hash
from diptych.core.contracts import Reply
from diptych.core.errors import RunError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, as_dialogue, require_one_per_image
from diptych.models.endpoint.address import RequestOptions, read_address
from diptych.models.endpoint.answers import AnswerCache
from diptych.models.endpoint.completion import completion_of
from diptych.models.endpoint.connection import ServerConnection
from diptych.models.endpoint.messages import data_url, messages_of, picture_key

PATH = "/chat/completions"
SILENT = 8
"""Consecutive questions that may be refused or answered with malformed output before the run stops."""
OFF_LINE = ("unreachable", "timeout", *(f"refused: HTTP {status}" for status in (408, 425, 429, 502, 503, 504)))
"""How faults begin that are the line's and no question's, unless another question was answered in the meantime. A 500 that stays is one
of its question."""


@dataclass(frozen=True, slots=True)
class EndpointUsage:
    """Requests, tokens, seconds and cost of a model behind an address so far.

    asked, looked_up, failed   requests that were sent and answered, that were cached, that got no answer
    prompt_tokens, written_tokens   of those that were sent, as the server counts them
    seconds  with a request in flight
    cost     by the prices of the address, in their currency
    """

    asked: int = 0
    looked_up: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    written_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __sub__(self, other: EndpointUsage) -> EndpointUsage:
        before = asdict(other)
        return EndpointUsage(**{name: value - before[name] for name, value in asdict(self).items()})


class ChatModel:
    """A `Generator` and `Respondent` over ``{address}/chat/completions``."""

    def __init__(
        self, line: ServerConnection, model: str, asking: RequestOptions | None = None, *, answers: AnswerCache | None = None
    ) -> None:
        """`answers` None keeps answers in the cache folder, unless `asking` says that none are kept."""
        self.line, self.model, self.asking, self.answers = line, model, asking or RequestOptions(), answers
        self.name = f"openai:{line.address}#{model}"
        self.spent = EndpointUsage()

    @classmethod
    def open(cls, address: str) -> ChatModel:
        """Of "openai:http://HOST:PORT/v1#MODEL?OPTIONS"; no request is sent yet."""
        return cls(*read_address(address))

    @cached_property
    def fingerprint(self) -> str:
        asking = self.asking
        return config_hash([self.line.address, self.model, asking.temperature, asking.seed, asking.pictures])

    @one_or_many
    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        """An answer each. Raises RunError if one has none; the others are kept all the same."""
        replies = self.replies(images, prompts, max_tokens=max_tokens)
        if faults := [(number, reply.fault) for number, reply in enumerate(replies) if reply.fault]:
            number, fault = faults[0]
            raise RunError(
                f"'{self.name}' has not answered {len(faults)} of {len(replies)} questions, the first of them number {number}: {fault}. "
                "The other answers are kept"
            )
        return [reply.text for reply in replies]

    @one_or_many
    def replies(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64
    ) -> list[Reply]:
        """A reply each, in order; equal questions are asked once. A question that is refused, or answered with nonsense, has a
        fault.

        Raises RunError if the server is away for longer than `patience`, or answers nothing as agreed. What was answered is
        kept.
        """
        require_one_per_image("prompts", prompts, images)
        began, marks = time.monotonic(), dict[int, str]()

        def marked(source: ImageSource) -> str:
            if id(source) not in marks:
                marks[id(source)] = picture_key(source)
            return marks[id(source)]

        keys = [
            _hash(self.line.address, self._body(image, prompt, max_tokens, marked))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        with self._store() as cache:
            cached = cache.of(list(dict.fromkeys(keys))) if cache is not None else {}
            looked_up = sum(key in cached for key in keys)
            missing: dict[str, int] = {}
            for row, key in enumerate(keys):
                if key not in cached:
                    missing.setdefault(key, row)
            self.spent = replace(self.spent, looked_up=self.spent.looked_up + looked_up)
            try:
                self._ask(missing, images, prompts, max_tokens, cached, cache)
            finally:
                self.spent = replace(self.spent, seconds=self.spent.seconds + time.monotonic() - began)
        return [cached[key] for key in keys]

    def _ask(
        self,
        missing: dict[str, int],
        images: Sequence[ImageSource | None],
        prompts: Sequence[PromptLike],
        max_tokens: int,
        cached: dict[str, Reply],
        cache: AnswerCache | None,
    ) -> None:
        """Fills `found`; several questions are in the air at once, and each answer is kept before others are waited for."""
        silent, answered, left = 0, bool(cached), iter(missing.items())
        last_answer = -math.inf
        line = replace(self.line, closed=threading.Event())
        with ThreadPoolExecutor(max_workers=self.asking.calls) as pool:
            waiting: dict[Future[Reply], tuple[str, int, float]] = {}
            try:
                while True:
                    for key, row in islice(left, self.asking.calls - len(waiting)):
                        future = pool.submit(self._reply, line, images[row], prompts[row], max_tokens)
                        waiting[future] = key, row, time.monotonic()
                    if not waiting:
                        break
                    gone = ""
                    for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                        key, row, since = waiting.pop(done)
                        reply = cached[key] = done.result()
                        self._keep(key, reply, prompts[row], cache)
                        silent = silent + 1 if reply.fault else 0
                        answered |= not reply.fault
                        last_answer = last_answer if reply.fault else time.monotonic()
                        away = reply.fault.startswith(OFF_LINE) and last_answer < since
                        if away or silent >= SILENT:
                            gone = self._away(reply.fault, silent)
                    if gone:
                        raise RunError(gone)
            finally:
                line.closed.set()  # nothing is tried again; what the server still answers has been paid for
                for done, (key, row, _) in waiting.items():
                    if done.exception() is None and not done.result().fault:
                        self._keep(key, done.result(), prompts[row], cache)
        if missing and not answered:
            raise RunError(self._away(next(cached[key].fault for key in missing), len(missing)))

    def _keep(self, key: str, reply: Reply, prompt: PromptLike, cache: AnswerCache | None) -> None:
        self._count(reply)
        if cache is not None:
            cache.keep(self.name, {key: reply}, [_words(prompt)])

    def _away(self, fault: str, silent: int) -> str:
        many = f"{silent} questions in a row failed, the last with " if silent > 1 else ""
        return (
            f"'{self.name}' does not answer: {many}{fault}. What was answered is kept; run the same command again to go on "
            "(expected a server of chat completions, its address up to and with /v1)"
        )

    def _reply(self, line: ServerConnection, image: ImageSource | None, prompt: PromptLike, max_tokens: int) -> Reply:
        text, fault = line.ask(PATH, self._body(image, prompt, max_tokens, data_url))
        return Reply("", fault=fault) if fault else completion_of(text, chat=True)

    def _body(self, image: ImageSource | None, prompt: PromptLike, max_tokens: int, written: Any) -> bytes:
        asking = self.asking
        plain: dict[str, Any] = {
            "model": self.model,
            "messages": messages_of(prompt, [] if image is None else [image], written, model=self.name, pictures=asking.pictures),
            asking.limit: max_tokens,
        }
        if asking.temperature >= 0:
            plain["temperature"] = asking.temperature
        if asking.temperature > 0:
            plain["seed"] = asking.seed
        return json.dumps(plain).encode()

    def _count(self, reply: Reply) -> None:
        spent, asking = self.spent, self.asking
        cost = (reply.prompt_tokens * asking.price_read + reply.written_tokens * asking.price_written) / 1e6
        self.spent = replace(
            spent,
            asked=spent.asked + (not reply.fault),
            failed=spent.failed + bool(reply.fault),
            prompt_tokens=spent.prompt_tokens + reply.prompt_tokens,
            written_tokens=spent.written_tokens + reply.written_tokens,
            cost=spent.cost + cost,
        )

    @contextmanager
    def _store(self) -> Iterator[AnswerCache | None]:
        if self.answers is not None or not self.asking.cache:
            yield self.answers
            return
        with AnswerCache() as opened:
            yield opened


def _hash(address: str, body: bytes) -> str:
    """Cache key of an answer: address, model, words, pictures and every setting that reaches the server."""
    return hashlib.sha256(address.encode() + b"\0" + body).hexdigest()[:32]


def _words(prompt: PromptLike) -> str:
    return "\n".join(turn.text for turn in as_dialogue(prompt).turns)
