"""What the gateway promises, kept on real vLLM: each promise a function that raises `NotMet`."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from benchmarks.faults.site import lives
from benchmarks.faults.table import NotMet, require, until
from benchmarks.gateway.endpoint import (
    ALIAS,
    COLD,
    MAX_TOKENS,
    MODEL,
    RUNNING,
    SLOTS,
    Served,
    connected,
)
from vllm_console.gateway import place

PROMPT = "The quick brown fox"
EFFECTIVE_S = 1.0


def _streamed(served: Served, model: str, tokens: int, key: str = "none") -> str:
    """The text of one streamed completion; raises `NotMet` when it does not come whole."""
    chunks = 0
    finish = ""
    text = ""
    for chunk in served.openai(key).completions.create(
        model=model,
        prompt=PROMPT,
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    ):
        require(bool(chunk.choices), "no chunk comes that was not asked for")
        text += chunk.choices[0].text
        finish = str(chunk.choices[0].finish_reason)
        chunks += 1
    require(finish == "length", f"the stream ends with {finish!r} after {chunks} chunks")
    return text


# --- the interfaces ------------------------------------------------------------------------------


def lists_every_model(served: Served) -> str:
    listed = {model.id: model for model in served.openai().models.list()}
    require({MODEL, ALIAS, COLD} <= listed.keys(), f"every model is listed: {sorted(listed)}")
    states = {name: (model.model_extra or {}).get("state") for name, model in listed.items()}
    require(states[MODEL] == "ready", f"{MODEL} is ready: {states}")
    return ", ".join(f"{name} {state}" for name, state in states.items())


def answers_a_chat(served: Served) -> str:
    answer = served.openai().chat.completions.create(
        model=ALIAS, messages=[{"role": "user", "content": PROMPT}], max_tokens=8
    )
    if not answer.choices or answer.usage is None:
        raise NotMet("an answer with its usage")
    return f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"


def streams_without_usage_nobody_asked_for(served: Served) -> str:
    return f"{len(_streamed(served, MODEL, 40))} characters"


def streams_with_usage_where_asked(served: Served) -> str:
    last = None
    for chunk in served.openai().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    ):
        last = chunk
    usage = last.usage if last is not None else None
    if usage is None:
        raise NotMet("the last chunk is the usage")
    return f"{usage.total_tokens} tokens"


def calls_tools(served: Served) -> str:
    weather: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Bern", "Oslo"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    blanks = [a + b for a in " \t\r\n" for b in ("", " ", "\t", "\r", "\n")]
    told = (served.post("/tokenize", {"model": MODEL, "prompt": blank})[2] for blank in blanks)
    never = {str(token): -100 for text in told for token in json.loads(text)["tokens"]}
    for stream in (False, True):
        answer = served.openai().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "How is the weather?"}],
            tools=[weather],
            tool_choice=choice,
            max_tokens=200,
            logit_bias=never,  # white space is allowed, and all that random weights would say
            stream=stream,
        )
        if isinstance(answer, openai.Stream):
            deltas = [chunk.choices[0].delta.tool_calls or [] for chunk in answer if chunk.choices]
            calls = [call.function for delta in deltas for call in delta if call.function]
            arguments = "".join(call.arguments or "" for call in calls)
        else:
            called = answer.choices[0].message.tool_calls or []
            require(len(called) == 1, f"one call: {answer.choices[0].message}")
            require(called[0].type == "function", f"a call of a function: {called[0]}")
            arguments = called[0].to_dict()["function"]["arguments"]  # type: ignore[index]
        city = json.loads(arguments)["city"]
        require(city in ("Bern", "Oslo"), f"arguments of the schema: {arguments}")
    return arguments


def keeps_to_a_schema(served: Served) -> str:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = served.openai().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "One or two?"}],
        response_format=wanted,
        max_tokens=100,
    )
    text = answer.choices[0].message.content or ""
    require(json.loads(text)["n"] in (1, 2), f"an answer of the schema: {text}")
    return text.strip()


def answers_responses(served: Served) -> str:
    answer = served.openai().responses.create(model=MODEL, input=PROMPT, max_output_tokens=16)
    require(answer.usage is not None, "a response with its usage")
    kinds = [
        event.type
        for event in served.openai().responses.create(
            model=MODEL, input=PROMPT, max_output_tokens=16, stream=True
        )
    ]
    last = kinds[-1]
    require(last in ("response.completed", "response.incomplete"), f"a whole stream: {last}")
    return f"{len(kinds)} events"


def answers_messages(served: Served) -> str:
    client = served.anthropic()
    told: Any = [{"role": "user", "content": PROMPT}]
    answer = client.messages.create(model=MODEL, max_tokens=16, messages=told)
    require(answer.usage.output_tokens > 0, "a message with its usage")
    with client.messages.stream(model=MODEL, max_tokens=16, messages=told) as stream:
        whole = stream.get_final_message()
    require(whole.usage.output_tokens > 0, "a streamed message with its usage")
    counted = client.messages.count_tokens(model=MODEL, messages=told)
    return f"{counted.input_tokens} + {whole.usage.output_tokens} tokens"


def tokenizes(served: Served) -> str:
    status, _, body = served.post("/tokenize", {"model": MODEL, "prompt": PROMPT})
    require(status == 200, f"/tokenize: {status} {body[:200]!r}")
    tokens = json.loads(body)["tokens"]
    status, _, body = served.post("/detokenize", {"model": MODEL, "tokens": tokens})
    require(status == 200 and PROMPT in json.loads(body)["prompt"], f"/detokenize: {body[:200]!r}")
    return f"{len(tokens)} tokens there and back"


def embeds_or_says_why_not(served: Served) -> str:
    try:
        made = served.openai().embeddings.create(model=MODEL, input=PROMPT)
    except openai.APIStatusError as error:  # the engine's own word for a model that cannot
        require(error.status_code in (400, 404), f"a refusal: {error}")
        return f"{error.status_code}: this model generates"
    return f"{len(made.data[0].embedding)} dimensions"


def tells_of_itself(served: Served) -> str:
    for path in ("/health", "/ready", "/metrics", "/stats", "/openapi.json"):
        status, text = served.get(path)
        require(status == 200, f"{path}: {status} {text[:200]}")
    told = {line.split("{")[0].split(" ")[0] for line in served.get("/metrics")[1].splitlines()}
    return f"{len([name for name in told if name.startswith('vllm_console')])} series names"


def carries_the_request_id(served: Served) -> str:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
    _, told, _ = served.post("/v1/completions", body, {"x-request-id": "abc-123"})
    require(told.get("x-request-id") == "abc-123", f"its own id comes back: {told}")
    _, told, _ = served.post("/v1/completions", body)
    require(bool(told.get("x-request-id")), "a request without an id is given one")
    return told["x-request-id"]


def errors_are_those_of_openai(served: Served) -> str:
    def fails(kind: type[openai.APIStatusError], call: Callable[[], object]) -> str:
        try:
            call()
        except kind as error:
            return str(error)
        except openai.OpenAIError as error:
            raise NotMet(f"{kind.__name__}, not {error!r}") from None
        raise NotMet(f"{kind.__name__}, not an answer")

    hi: Any = [{"role": "user", "content": "hi"}]
    chat = served.openai().chat.completions.create
    said = fails(openai.NotFoundError, lambda: chat(model="tinny", messages=hi))
    require(MODEL in said, f"the nearest name is told: {said}")
    wrong = served.openai("vc-wrong").chat.completions.create
    fails(openai.AuthenticationError, lambda: wrong(model=MODEL, messages=hi))
    none: Any = 7
    fails(openai.BadRequestError, lambda: chat(model=MODEL, messages=none))
    fails(openai.BadRequestError, lambda: chat(model=MODEL, messages=hi, temperature=-5))
    status, _, _ = served.post("/v1/load_lora_adapter", {"model": MODEL})
    require(status == 404, f"what is not of the interface is not there: {status}")
    return said


# --- keys, limits, usage -------------------------------------------------------------------------


def keys_take_effect_and_end_within_a_second(served: Served) -> str:
    def works(key: str) -> bool:
        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
        status, _, _ = served.post("/v1/completions", body, {"authorization": f"Bearer {key}"})
        return status == 200

    key = served.key("short")
    came = until(lambda: works(key), EFFECTIVE_S, "a new key is taken")
    served.verb("keys", "revoke", "short")
    went = until(lambda: not works(key), EFFECTIVE_S, "a revoked key is refused")
    return f"after {came:.2f} s, {went:.2f} s"


def keys_bound_what_is_asked(served: Served) -> str:
    other = served.key("other", "--models", COLD)
    few = served.key("few", "--rpm", "3")
    time.sleep(EFFECTIVE_S)
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
    status, _, text = served.post("/v1/completions", body, {"authorization": f"Bearer {other}"})
    require(status == 403, f"a key of another model is refused: {status} {text!r}")
    for _ in range(3):
        status, _, _ = served.post("/v1/completions", body, {"authorization": f"Bearer {few}"})
        require(status == 200, f"three a minute are served: {status}")
    status, told, _ = served.post("/v1/completions", body, {"authorization": f"Bearer {few}"})
    after = told.get("retry-after", "0")
    require(status == 429 and 0 < int(after) <= 60, f"the fourth waits: {status} {told}")
    return f"403; 429 with Retry-After {after}"


def limits_hold(served: Served) -> str:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1500, "ignore_eos": True}
    status, _, text = served.post("/v1/completions", body)
    require(status == 200, f"a request for more than may be is cut to it: {status} {text!r}")
    made = json.loads(text)["usage"]["completion_tokens"]
    require(made == MAX_TOKENS, f"{MAX_TOKENS} tokens at most: {made}")
    same = {"model": MODEL, "prompt": PROMPT, "max_tokens": 20, "ignore_eos": True}
    answers = {
        json.loads(served.post("/v1/completions", same)[2])["choices"][0]["text"] for _ in range(3)
    }
    require(len(answers) == 1, "temperature 0 of the fleet file is filled in")
    return f"{made} tokens; one answer of three alike"


def usage_is_what_the_engine_counted(served: Served) -> str:
    """Requests of every kind are in both: nothing else talks to this engine.

    None asks for n > 1: the engine counts the prompt once a choice, its answers tell it once.
    """
    key = served.key("counted")
    time.sleep(EFFECTIVE_S)
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    before = served.engine()
    told: Any = [{"role": "user", "content": PROMPT}]
    client = served.openai(key)
    for stream in (False, True, True):
        answer = client.chat.completions.create(
            model=MODEL, messages=told, max_tokens=23, stream=stream
        )
        if isinstance(answer, openai.Stream):
            for _ in answer:
                pass
        _streamed(served, MODEL, 31, key)
        client.completions.create(model=MODEL, prompt=[PROMPT, "Once"], max_tokens=7)
        client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=11)
    with served.anthropic(key).messages.stream(
        model=MODEL, max_tokens=9, messages=told
    ) as streamed:
        streamed.get_final_message()
    grown = {name: served.engine()[name] - before[name] for name in names}
    seen: dict[str, Any] = {}

    def written() -> bool:
        lines = json.loads(served.verb("usage", "--by", "key", "--json"))
        rows = lines["rows"] if isinstance(lines, dict) else lines
        seen.update(next((row for row in rows if row["key"] == "counted"), {}))
        return bool(seen) and seen["requests"] == 13

    until(written, 10.0, "13 requests are written down", every_s=0.3)
    mine = (seen["prompt"], seen["generated"])
    require(mine == tuple(grown.values()), f"usage {mine}, the engine {tuple(grown.values())}")
    return f"{mine[0]} + {mine[1]} tokens, both"


# --- routing, waiting, living on -----------------------------------------------------------------


def stops_when_the_client_leaves(served: Served) -> str:
    stream = served.openai().completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=MAX_TOKENS, stream=True
    )
    next(iter(stream))
    until(lambda: served.engine()[RUNNING] == 1, 5.0, "the engine runs it")
    stream.response.close()
    took = until(lambda: served.engine()[RUNNING] == 0, 5.0, "the engine has no request")
    return f"after {took:.2f} s"


def high_goes_before_low(served: Served) -> str:
    """More low requests than the engine takes wait; a high one that comes later is served first."""
    high, low = served.key("high", "--max-class", "high"), served.key("low", "--max-class", "low")
    time.sleep(EFFECTIVE_S)
    ends: list[float] = []
    with ThreadPoolExecutor(6 * SLOTS) as pool:

        def ask() -> None:
            _streamed(served, MODEL, 300, low)
            ends.append(time.monotonic())

        asked = [pool.submit(ask) for _ in range(6 * SLOTS)]
        until(lambda: _waiting(served) >= 2 * SLOTS, 20.0, f"{2 * SLOTS} requests wait")
        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
        headers = {"authorization": f"Bearer {high}", "x-priority": "high"}
        began = time.monotonic()
        status, _, text = served.post("/v1/completions", body, headers)
        came = time.monotonic()
        require(status == 200, f"the high one is served: {status} {text!r}")
        for one in asked:
            one.result()
    after = sum(end > came for end in ends)
    require(after >= 2 * SLOTS, f"{after} of {len(ends)} low ones end after it")
    return f"served after {came - began:.2f} s, before {after} of {len(ends)} low ones"


def loads_a_cold_model_for_a_request(served: Served) -> str:
    require(served.site.state(f"{COLD}-1") in (None, "stopped"), f"{COLD} is not loaded")
    began = time.monotonic()
    comments = 0
    first = None
    last = b""
    body = {"model": COLD, "prompt": PROMPT, "max_tokens": 8, "stream": True, "ignore_eos": True}
    with connected(served.port) as connection:
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        require(answer.status == 200, f"it is held, not refused: {answer.status}")
        while line := answer.readline():
            comments += line.startswith(b":")
            if line.startswith(b"data: ") and first is None:
                first = time.monotonic() - began
            last = line.strip() or last
    require(last == b"data: [DONE]", f"it is served in the end: {last!r}")
    require(comments > 0, "comments keep the connection alive meanwhile")
    loads = [event for event in served.site.events() if COLD in event and "request" in event]
    require(len(loads) == 1, f"it is loaded once: {loads}")
    return f"first token after {first or 0:.1f} s, {comments} comments"


def unloads_after_the_last_answer(served: Served) -> str:
    served.site.ready(f"{COLD}-1")
    text: list[str] = []
    began = threading.Event()

    def read() -> None:
        for chunk in served.openai().completions.create(
            model=COLD, prompt=PROMPT, max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
        ):
            text.append(str(chunk.choices[0].finish_reason))
            began.set()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        require(began.wait(60.0), "the stream begins")
        served.verb("unload", COLD)
        reading.result()
    require(text[-1] == "length", f"the stream ends whole: {text[-1]!r} after {len(text)} chunks")
    return f"{len(text)} chunks, none missing"


def serves_on_without_a_daemon(served: Served) -> str:
    gateway = place.read_record(served.site.place.state_dir / "gateway")
    require(gateway is not None, "a gateway runs")
    assert gateway is not None
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_streamed, served, MODEL, 400)
        served.site.kill_daemon(signal.SIGKILL)
        _streamed(served, MODEL, 10)
        reading.result()
        served.site.up()
        served.site.ready(f"{MODEL}-1")
        _streamed(served, MODEL, 10)
    record = place.read_record(served.site.place.state_dir / "gateway")
    require(record is not None and record.pid == gateway.pid, "it is the same process")
    return f"pid {gateway.pid} before and after"


def restarts_without_losing_an_answer(served: Served) -> str:
    directory = served.site.place.state_dir / "gateway"
    before = place.read_record(directory)
    require(before is not None, "a gateway runs")
    assert before is not None
    with ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(_streamed, served, MODEL, 400) for _ in range(2)]
        served.verb("gateway", "restart")
        _streamed(served, MODEL, 10)
        for one in reading:
            one.result()
    now = place.read_record(directory)
    require(now is not None and now.pid != before.pid, "another process serves")
    until(lambda: not lives((before.pid, before.start)), 20.0, "the old one ends")
    return f"pid {before.pid}, then {now.pid if now else None}"


def _models(served: Served) -> list[dict[str, Any]]:
    told = served.stats()["models"]
    return list(told.values()) if isinstance(told, dict) else list(told)


def _waiting(served: Served) -> int:
    return sum(
        sum(waiting.values()) if isinstance(waiting, dict) else sum(waiting)
        for waiting in (model["waiting"] for model in _models(served))
    )


Promise = Callable[[Served], str]

INTERFACES: dict[str, Promise] = {
    "lists every model": lists_every_model,
    "answers a chat": answers_a_chat,
    "streams, without usage nobody asked for": streams_without_usage_nobody_asked_for,
    "streams usage where it is asked for": streams_with_usage_where_asked,
    "calls tools": calls_tools,
    "keeps to a schema": keeps_to_a_schema,
    "answers /v1/responses": answers_responses,
    "answers /v1/messages": answers_messages,
    "tokenizes": tokenizes,
    "embeds, or says why not": embeds_or_says_why_not,
    "tells of itself": tells_of_itself,
    "carries the request's id": carries_the_request_id,
    "errors are those of OpenAI": errors_are_those_of_openai,
    "keys take effect, and end, within a second": keys_take_effect_and_end_within_a_second,
    "keys bound what is asked": keys_bound_what_is_asked,
    "limits of the model hold": limits_hold,
    "usage is what the engine counted": usage_is_what_the_engine_counted,
    "stops when the client leaves": stops_when_the_client_leaves,
}
"""Promises that one ready model is enough for, each a few seconds."""
LIVING: dict[str, Promise] = {
    "high goes before low": high_goes_before_low,
    "loads a cold model for a request": loads_a_cold_model_for_a_request,
    "unloads after the last answer": unloads_after_the_last_answer,
    "serves on without a daemon": serves_on_without_a_daemon,
    "restarts without losing an answer": restarts_without_losing_an_answer,
}
"""Promises about waiting, loading and restarts, in the order in which they are to be tried."""
