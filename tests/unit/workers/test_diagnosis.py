"""Every failure of vLLM that we know, from the lines it writes, to cause and remedy."""

from __future__ import annotations

import pytest

from vllm_console.workers.diagnosis import EXCERPT_LINES, diagnose
from vllm_console.workers.launch import Exit
from vllm_console.workers.redaction import BLANK, redact
from vllm_console.workers.states import Cause

ULIMIT = (
    "(APIServer pid=9) WARNING 11-21 02:15:21 [system_utils.py:255] Found ulimit of 20000 and"
    " failed to automatically increase with error current limit exceeds maximum limit. This can"
    " cause fd limit errors like `OSError: [Errno 24] Too many open files`."
)
WRAPPER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
CORE = "(EngineCore pid=7) ERROR 11-21 02:16:27 [core.py:1510] "
TYPE = " [type=value_error, input_value=ArgsKwargs((), {'model_co...}), input_type=ArgsKwargs]"

CASES: list[tuple[str, int, list[str], Cause, str, str]] = [
    (
        "unknown flag",
        2,
        ["usage: vllm serve", "vllm: error: unrecognized arguments: --no-such-flag 3"],
        Cause.BAD_OPTION,
        "--no-such-flag 3",
        "no such option",
    ),
    (
        "bad choice",
        2,
        ["vllm serve: error: argument --dtype: invalid choice: 'float99' (choose from 'auto')"],
        Cause.BAD_OPTION,
        "float99",
        "give --dtype a value",
    ),
    (
        "bad int",
        2,
        [
            "vllm serve: error: argument --max-model-len: invalid human_readable_int_or_auto"
            " value: 'abc'"
        ],
        Cause.BAD_OPTION,
        "'abc'",
        "give --max-model-len a value",
    ),
    (
        "port out of range",
        1,
        ["OverflowError: bind(): port must be 0-65535."],
        Cause.BAD_OPTION,
        "port must be",
        "`port`",
    ),
    (
        "port used",
        1,
        [ULIMIT, "OSError: [Errno 98] Address already in use"],
        Cause.PORT_IN_USE,
        "[Errno 98]",
        "port",
    ),
    (
        "model directory missing",
        1,
        [
            ULIMIT,
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or"
            " 'namespace/repo_name': '/no/such/model'. Use `repo_type` argument if needed.",
        ],
        Cause.MODEL_NOT_FOUND,
        "HFValidationError: Repo id",
        "correct `source`",
    ),
    (
        "hub id not cached, offline",
        1,
        [
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached"
            " snapshot folder for the specified revision on the local disk and outgoing traffic"
            " has been disabled."
        ],
        Cause.MODEL_NOT_FOUND,
        "cached snapshot",
        "HF_HUB_OFFLINE",
    ),
    (
        "gated",
        1,
        [
            "OSError: You are trying to access a gated repo.",
            "401 Client Error. (Request ID: Root=1-69)",
        ],
        Cause.GATED_MODEL,
        "gated repo",
        "HF_TOKEN",
    ),
    (
        "config.json broken",
        1,
        [
            "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes",
            "OSError: It looks like the config file at 'm/config.json' is not a valid JSON file.",
        ],
        Cause.WEIGHTS_BROKEN,
        "not a valid JSON file",
        "config.json",
    ),
    (
        "unknown architecture",
        1,
        [
            "(APIServer pid=9) ERROR 11-21 02:17:17 [repo_utils.py:126] Error parsing config for"
            " m: The checkpoint you are trying to load has model type `foo` but Transformers does"
            " not recognize this architecture.",
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "  Value error, The checkpoint you are trying to load has model type `foo` but"
            " Transformers does not recognize this architecture.",
        ],
        Cause.UNSUPPORTED_MODEL,
        "`foo`",
        "newer engine",
    ),
    (
        "longer than the model",
        1,
        [
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "  Value error, User-specified max_model_len (8192) is greater than the derived"
            " max_model_len (max_position_embeddings=4096.0 or model_max_length=None in model's"
            " config.json). To allow overriding this maximum, set the env var",
        ],
        Cause.BAD_OPTION,
        "User-specified max_model_len (8192)",
        "4096 or less",
    ),
    (
        "heads not divisible",
        1,
        [
            "  Value error, Total number of attention heads (4) must be divisible by tensor"
            " parallel size (3)." + TYPE
        ],
        Cause.BAD_OPTION,
        "Total number of attention heads (4) must be divisible by tensor parallel size (3).",
        "divisor of 4",
    ),
    (
        "quantization without its file",
        1,
        ["  Value error, Cannot find the config file for awq" + TYPE],
        Cause.BAD_OPTION,
        "Cannot find the config file for awq",
        "not quantized with awq",
    ),
    (
        "batch smaller than length",
        1,
        [
            "  Value error, max_num_batched_tokens (16) is smaller than max_model_len (2048). This"
            " effectively limits the maximum sequence length"
        ],
        Cause.BAD_OPTION,
        "max_num_batched_tokens (16)",
        "2048 or more",
    ),
    (
        "utilization over one",
        1,
        ["pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig"],
        Cause.BAD_OPTION,
        "ValidationError: 1 validation error",
        "CacheConfig",
    ),
    (
        "sleep mode on CPU",
        1,
        ["  Value error, Sleep mode is not supported on current platform." + TYPE],
        Cause.BAD_OPTION,
        "Sleep mode is not supported",
        "change",
    ),
    (
        "KV cache too big",
        1,
        [
            CORE + "ValueError: Available memory on node 0 (12.47/13.84 GiB) on kv cache allocation"
            " is less than requested memory for kv (200.0 GiB). Decrease --kv-cache-memory-bytes",
            "ValueError: Available memory on node 0 (12.47/13.84 GiB) on kv cache allocation",
            WRAPPER,
        ],
        Cause.OUT_OF_MEMORY,
        "200.0 GiB",
        "kv_cache_memory_bytes",
    ),
    (
        "KV cache too small",
        1,
        [
            CORE + "ValueError: To serve at least one request with the model's max seq len (2048),"
            " (0.0 GiB KV cache is needed, which is larger than the available KV cache memory (0.0"
            " GiB). Based on the available memory, the estimated maximum model length is 384.",
            WRAPPER,
        ],
        Cause.KV_TOO_SMALL,
        "To serve at least one request",
        "384 or less",
    ),
    (
        "no room for the KV cache on a GPU",
        1,
        [CORE + "ValueError: No available memory for the cache blocks. Try increasing", WRAPPER],
        Cause.KV_TOO_SMALL,
        "No available memory",
        "gpu_memory_utilization",
    ),
    (
        "GPU taken by another",
        1,
        [
            CORE + "ValueError: Free memory on device cuda:0 (67.24/79.25 GiB) on startup is less"
            " than desired GPU memory utilization (0.9, 71.33 GiB).",
            WRAPPER,
        ],
        Cause.OUT_OF_MEMORY,
        "67.24/79.25 GiB",
        "free the GPU",
    ),
    (
        "GPU out of memory",
        1,
        [CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.63 GiB", WRAPPER],
        Cause.OUT_OF_MEMORY,
        "OutOfMemoryError: CUDA out of memory",
        "gpu_memory_utilization",
    ),
    (
        "no weights",
        1,
        [CORE + "RuntimeError: Cannot find any model weights with `m`", WRAPPER],
        Cause.WEIGHTS_BROKEN,
        "RuntimeError: Cannot find any model weights",
        "no weights",
    ),
    (
        "weights cut short",
        1,
        [
            CORE + "safetensors._safetensors_rust.SafetensorError: Error while deserializing"
            " header: incomplete metadata, file not fully covered",
            WRAPPER,
        ],
        Cause.WEIGHTS_BROKEN,
        "SafetensorError: Error while deserializing header",
        "cut short",
    ),
    (
        "weights of another shape",
        1,
        [
            CORE + "RuntimeError: The size of tensor a (64) must match the size of tensor b (128)",
            WRAPPER,
        ],
        Cause.WEIGHTS_BROKEN,
        "size of tensor a (64)",
        "belong together",
    ),
    (
        "no GPU for a CUDA build",
        1,
        ["RuntimeError: Failed to infer device type"],
        Cause.ENGINE_MISSING,
        "infer device type",
        "engines install cpu",
    ),
    (
        "an engine error of no known kind",
        1,
        [CORE + "Traceback (most recent call last):", CORE + "KeyError: 'lm_head'", WRAPPER],
        Cause.UNKNOWN,
        "KeyError: 'lm_head'",
        "its log",
    ),
    ("killed", -9, [ULIMIT], Cause.KILLED, "SIGKILL", "dmesg"),
    ("crashed", -11, [ULIMIT], Cause.KILLED, "SIGSEGV", "signal"),
    ("silent", 3, [], Cause.UNKNOWN, "with exit code 3", "log"),
]


@pytest.mark.parametrize(
    ("rc", "log", "cause", "line", "remedy"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_a_start_that_failed(rc: int, log: list[str], cause: Cause, line: str, remedy: str) -> None:
    failure = diagnose(log, Exit(rc, asked=False, at=0.0), served=False)
    assert failure.cause == cause
    assert line in failure.line
    assert remedy in failure.remedy
    assert "\n" not in failure.line + failure.remedy
    assert "EngineCore pid" not in failure.line
    assert (failure.exit_code, failure.at) == (rc, "1970-01-01T00:00:00.000Z")


def test_an_engine_that_dies_under_a_running_server_exits_with_0() -> None:
    log = [
        "(APIServer pid=9) ERROR 11-21 02:28:15 [core_client.py:817] engine core exited"
        " unexpectedly; starting cleanup",
        "(APIServer pid=9) INFO 11-21 02:28:15 [launcher.py:254] [shutdown] API server: shutdown"
        " triggered",
        "(APIServer pid=9) ERROR 11-21 02:28:15 [async_llm.py:906]"
        " vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    ]
    failure = diagnose(log, Exit(0, asked=False, at=0.0), served=True)
    assert failure.cause == Cause.ENGINE_DIED


def test_the_engine_s_own_last_words_come_before_the_wrapper_s() -> None:
    log = [
        CORE + "RuntimeError: CUDA error: an illegal memory access was encountered",
        "(APIServer pid=9) ERROR 11-21 02:28:15 [async_llm.py:906]"
        " vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    ]
    failure = diagnose(log, Exit(0, asked=False, at=0.0), served=True)
    assert failure.cause == Cause.ENGINE_DIED
    assert "illegal memory access" in failure.line


def test_a_signal_from_somebody_else_is_no_engine_failure() -> None:
    log = [
        "(APIServer pid=9) INFO 11-21 02:28:15 [launcher.py:254] [shutdown] API server: shutdown"
        " triggered",
        "(APIServer pid=9) ERROR 11-21 02:28:15 [async_llm.py:906]"
        " vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    ]
    failure = diagnose(log, Exit(0, asked=False, at=0.0), served=True)
    assert failure.cause == Cause.KILLED


def test_a_word_in_a_served_request_is_no_configuration_error() -> None:
    log = [
        "(APIServer pid=9) ERROR 11-21 02:28:15 [serving.py:1] ValueError: 401 Client Error for x",
        "(EngineCore pid=7) ERROR 11-21 02:28:16 [core.py:1] RuntimeError: worker gone",
    ]
    failure = diagnose(log, Exit(1, asked=False, at=0.0), served=True)
    assert (failure.cause, failure.line) == (Cause.UNKNOWN, "RuntimeError: worker gone")


def test_the_excerpt_shows_the_telling_line_among_its_neighbours() -> None:
    log = [f"line {n}" for n in range(100)]
    log[50] = "OSError: [Errno 98] Address already in use"
    failure = diagnose(log, Exit(1, asked=False, at=0.0), served=False)
    assert len(failure.log_excerpt) == EXCERPT_LINES
    assert log[50] in failure.log_excerpt


def test_no_secret_leaves_with_a_failure() -> None:
    log = [
        "non-default args: {'api_key': ['s3cret-one'], 'max_num_batched_tokens': 2048}",
        "ValueError: bad header Authorization: Bearer s3cret-two and hf_s3cretthreeXYZ",
        "env HF_TOKEN=s3cret-four http://user:s3cret-five@proxy:3128",
    ]
    failure = diagnose(log, Exit(1, asked=False, at=0.0), served=False)
    told = " ".join([failure.line, failure.remedy, *failure.log_excerpt])
    assert "s3cret" not in told
    assert told.count(BLANK) >= 5
    assert "2048" in told


@pytest.mark.parametrize(
    "text",
    [
        "max_num_batched_tokens=16, eos_token=</s>, skip_tokenizer_init=False",
        "KeyError: 'lm_head'",
        "models.tiny.env.HF_TOKEN: no such file secrets/x",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
