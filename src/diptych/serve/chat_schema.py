"""Schemas of requests and answers of generative models: OpenAI chat completions, captions, answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from diptych.serve.schema import ImageOrUid, Name, Picture, StrictRequest, Words

PICTURE_URL = "a data URL (data:image/png;base64,...), base64, or item:UID for an item that is there; addresses are refused"
Tokens = Field(default=64, ge=1, description="of the answer; at most `tokens` of /info")
Note = Field(default="", description="why the text is empty; absent where it is not")


class TextContent(BaseModel):
    type: Literal["text"]
    text: Words


class ImageUrl(BaseModel):
    url: str = Field(description=PICTURE_URL)


class ImageContent(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Content]


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """As OpenAI clients send it. Fields that such clients add and that leave the text as it is are ignored; others are refused."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = Name
    max_tokens: int | None = Field(
        default=None, ge=1, description="of the answer; as many as there is room for by default, at most `tokens` of /info"
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, description="the newer name of `max_tokens`")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, as without it: the likeliest word each time")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="of sampling; 0 by default")
    stop: str | list[str] | None = Field(default=None, description="up to 4 texts that end the answer and are left out")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    audio: dict[str, Any] | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage | None = Field(description="empty where the model does not count")


class CaptionRequest(ImageOrUid):
    """A caption for a picture."""

    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    prompt: str = Field(default="", description="the prompt; without one, the model's own template")
    max_tokens: int = Tokens
    model: str | None = Name


class AskRequest(StrictRequest):
    """A question about a picture; with `choices` the most likely of them is taken, and nothing is written. Only a model that reads text
    alone is asked without a picture."""

    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    question: Words
    choices: list[str] = Field(default_factory=list)
    compared: Literal["mean", "sum"] = Field(default="mean", description="nats a token, or of the whole answer")
    describe: str = Field(
        default="",
        description="request for a description of the picture, of at most `tokens` of /info, which then stands before the question",
    )
    max_tokens: int = Tokens
    model: str | None = Name


class CaptionAnswer(BaseModel):
    model: str
    caption: str
    note: str = Note


class AskAnswer(BaseModel):
    model: str
    answer: str
    shares: dict[str, float] | None = Field(description="of the given choices, which add up to 1")
    nats: dict[str, float] | None = Field(description="the cost of each choice")
    note: str = Note
