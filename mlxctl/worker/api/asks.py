"""From a request on the wire to an ask in the worker's own words: names, defaults, priorities. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mlxctl.worker.api.wire import ChatParams, ChatRequest, CompletionRequest, NamedTool, SchemaFormat
from mlxctl.worker.ask import AnswerFormat, ChatAsk, Terms, TextAsk, ToolChoice
from mlxctl.worker.errors import InvalidRequest, UnknownModel
from mlxctl.worker.types import Priority, Sampling

ANY_MODEL = "default_model"
MAX_CHOICES = 128
LEAST_TOP_P = 1e-6
"""Stands for a top_p of 0: the likeliest token alone. The engine takes 0 for none."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the priority of their key and of their `X-Priority` header, and the tenant that their cache is for."""

    priority: Priority = Priority.NORMAL
    header: str = ""
    salt: str = ""


def read_defaults(request_params: dict[str, Any]) -> ChatParams:
    """The configured defaults. Raises `ValueError` naming the one that is wrong."""
    try:
        return ChatParams.model_validate(request_params)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"request_params: {first['loc'][0]}: {first['msg']}") from error


def check_model(asked: str | None, served: str) -> None:
    """Raises `UnknownModel` for a name that is neither the served one nor one for any."""
    if asked and asked not in (served, ANY_MODEL):
        raise UnknownModel(f"the model {asked!r} is not served here; {served!r} is", param="model")


def chat_ask(request: ChatRequest, caller: Caller, defaults: ChatParams) -> ChatAsk:
    """Raises `InvalidRequest` where two fields do not go together."""
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs can only be had with logprobs: true", param="top_logprobs")
    parallel = _first(request.parallel_tool_calls, defaults.parallel_tool_calls, True)
    wanted = _first(request.max_completion_tokens, request.max_tokens)
    by_default = _first(defaults.max_completion_tokens, defaults.max_tokens)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return ChatAsk(
        terms=_terms(request, caller, defaults, _first(wanted, by_default), logprobs),
        messages=[message.model_dump(exclude_none=True) for message in request.messages],
        tools=[tool.model_dump(exclude_none=True) for tool in request.tools or []],
        tool_choice=_tool_choice(request),
        parallel_tool_calls=parallel,
        answer_format=_answer_format(request),
        template_kwargs=_template_kwargs(request, defaults),
    )


def text_ask(request: CompletionRequest, caller: Caller, defaults: ChatParams) -> TextAsk:
    """Raises `InvalidRequest` for what cannot be done."""
    if request.suffix:
        raise InvalidRequest("the model continues a text and cannot fill a gap before a suffix", param="suffix")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise InvalidRequest("best_of is not supported: leave it out, or let it equal n", param="best_of")
    if request.echo and request.logprobs is not None:
        raise InvalidRequest("the logprobs of a prompt are not computed: ask for echo or logprobs", param="echo")
    prompts = _prompts(request.prompt)
    if len(prompts) * (request.n or 1) > MAX_CHOICES:
        raise InvalidRequest(f"at most {MAX_CHOICES} choices can be asked for at once", param="n")
    wanted = _first(request.max_tokens, defaults.max_tokens)
    return TextAsk(
        terms=_terms(request, caller, defaults, wanted, request.logprobs),
        prompts=prompts,
        echo=bool(request.echo),
    )


def _first(*values: Any) -> Any:
    """The first that is said at all."""
    return next((value for value in values if value is not None), None)


def _terms(
    request: ChatRequest | CompletionRequest,
    caller: Caller,
    defaults: ChatParams,
    max_tokens: int | None,
    logprobs: int | None,
) -> Terms:
    def said(name: str, otherwise: Any) -> Any:
        return _first(getattr(request, name), getattr(defaults, name), otherwise)

    top_p, seed = float(said("top_p", 1.0)), said("seed", None)
    sampling = Sampling(
        temperature=float(said("temperature", 1.0)),
        top_p=top_p or LEAST_TOP_P,
        top_k=max(0, said("top_k", 0)),
        min_p=float(said("min_p", 0.0)),
        repetition_penalty=float(said("repetition_penalty", 1.0)),
        presence_penalty=float(said("presence_penalty", 0.0)),
        frequency_penalty=float(said("frequency_penalty", 0.0)),
        logit_bias=tuple(sorted((int(token), float(bias)) for token, bias in said("logit_bias", {}).items())),
        seed=None if seed is None else seed % 2**63,
        logprobs=logprobs,
    )
    stop = said("stop", [])
    return Terms(
        sampling=sampling,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        n=said("n", 1),
        priority=_priority(request.priority, caller),
        salt=caller.salt,
    )


def _priority(asked: str | int | None, caller: Caller) -> Priority:
    """The body's, else the header's, else the key's."""
    if asked is not None:
        return _named_priority(asked, "priority")
    return _named_priority(caller.header, "X-Priority") if caller.header else caller.priority


def _named_priority(name: str | int, param: str) -> Priority:
    by_name = {priority.name.lower(): priority for priority in Priority} | {str(int(one)): one for one in Priority}
    found = by_name.get(str(name).strip().lower())
    if found is None:
        raise InvalidRequest(f"a priority is high, normal or low, or 0 to 2; not {name!r}", param=param)
    return found


def _tool_choice(request: ChatRequest) -> ToolChoice:
    choice = request.tool_choice
    names = {tool.function.name for tool in request.tools or []}
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequest(f"there is no tool {choice.function.name!r}", param="tool_choice")
    if choice == "required" and not names:
        raise InvalidRequest("there are no tools to choose from", param="tool_choice")
    if isinstance(choice, NamedTool):
        return ToolChoice("required", choice.function.name)
    return ToolChoice(choice or ("auto" if request.tools else "none"))


def _answer_format(request: ChatRequest) -> AnswerFormat:
    wanted = request.response_format
    if wanted is None:
        return AnswerFormat()
    if isinstance(wanted, SchemaFormat):
        return AnswerFormat("json_schema", wanted.json_schema.schema_)
    return AnswerFormat(wanted.type)


def _template_kwargs(request: ChatRequest, defaults: ChatParams) -> dict[str, Any]:
    """The server's, then the request's. An effort of `none` also says that there is to be no thinking."""
    kwargs: dict[str, Any] = {}
    for said in (defaults, request):
        if said.reasoning_effort is not None:
            kwargs["reasoning_effort"] = said.reasoning_effort
            if said.reasoning_effort == "none":
                kwargs["enable_thinking"] = False
        if said.enable_thinking is not None:
            kwargs["enable_thinking"] = said.enable_thinking
        kwargs |= said.chat_template_kwargs or {}
    return kwargs


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(token for token in prompt if isinstance(token, int)),)
    return tuple(one if isinstance(one, str) else tuple(one) for one in prompt if not isinstance(one, int))
