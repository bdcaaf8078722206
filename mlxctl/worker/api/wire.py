"""What clients may send, as OpenAI's API has it. Strict about what is known; what is not is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_COUNT = 2**31 - 1
TOKEN_ID = r"^[0-9]{1,9}$"

Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class TextPart(Wire):
    type: Literal["text"]
    text: str


class RefusalPart(Wire):
    type: Literal["refusal"]
    refusal: str


class CalledFunction(Wire):
    name: Text
    arguments: str = "{}"


class Call(Wire):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


Parts = Annotated[list[TextPart], Field(min_length=1)]


class SystemMessage(Wire):
    role: Literal["system", "developer"]
    content: str | Parts
    name: str | None = None


class UserMessage(Wire):
    role: Literal["user"]
    content: str | Parts
    name: str | None = None


class AssistantMessage(Wire):
    role: Literal["assistant"]
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None


class ToolMessage(Wire):
    role: Literal["tool"]
    content: str | Parts
    tool_call_id: str
    name: str | None = None


class FunctionMessage(Wire):
    """What `tool` was called before there were several calls a turn."""

    role: Literal["function"]
    content: str
    name: str


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class Function(Wire):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    name: Text


class NamedTool(Wire):
    type: Literal["function"]
    function: FunctionName


class NamedSchema(Wire):
    name: str = "answer"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class PlainFormat(Wire):
    type: Literal["text", "json_object"]


class SchemaFormat(Wire):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class StreamOptions(Wire):
    include_usage: bool | None = None


class Params(Wire):
    """How an answer is drawn. None: as the server's `request_params` say, else OpenAI's default."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[Annotated[str, Field(pattern=TOKEN_ID)], Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=1024
    )
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    max_tokens: Count | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None


class ChatParams(Params):
    max_completion_tokens: Count | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Ask(Wire):
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Literal["high", "normal", "low"] | Annotated[int, Field(ge=0, le=2)] | None = None
    user: str | None = None

    @property
    def wants_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Ask, ChatParams):
    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


Tokens = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(Ask, Params):
    prompt: (
        str
        | Tokens
        | Annotated[list[str], Field(min_length=1, max_length=128)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=128)]
    )
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
