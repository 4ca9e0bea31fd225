"""Every failure of vLLM that we know, from the lines it writes, to cause and remedy."""

from __future__ import annotations

import pytest

from vllm_console.workers.diagnosis import EXCERPT_LINES, diagnose
from vllm_console.workers.known_failures import RULES
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
        "give --dtype one of 'auto'",
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
        "max_model_len 8192 exceeds the model's 4096: set max_model_len to 4096 or less",
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
        "one of 1, 2, 4",
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
        [
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig",
            "gpu_memory_utilization",
            "  Input should be less than or equal to 1 [type=less_than_equal, input_value=1.5,"
            " input_type=float]",
        ],
        Cause.BAD_OPTION,
        "Input should be less than or equal to 1",
        "gpu_memory_utilization must be less than or equal to 1, and is 1.5",
    ),
    (
        "a value of a configuration, not told which",
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
        "enable_sleep_mode",
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
        "kv_cache_memory_bytes below 12.47 GiB",
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
        "holds 12.0 GiB of this GPU: set gpu_memory_utilization to 0.84 or less",
    ),
    (
        "GPU out of memory",
        1,
        [CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.63 GiB", WRAPPER],
        Cause.OUT_OF_MEMORY,
        "OutOfMemoryError: CUDA out of memory",
        "the weights do not fit",
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
        "GPU out of memory after the weights",
        1,
        [
            "(EngineCore pid=7) INFO 11-21 02:16:20 [gpu_model_runner.py:5150] Model loading took"
            " 60.27 GiB memory and 31.5 seconds",
            CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0"
            " has a total capacity of 7.75 GiB of which 1.17 GiB is free.",
            WRAPPER,
        ],
        Cause.OUT_OF_MEMORY,
        "of which 1.17 GiB is free",
        "the weights fit, the rest does not: lower max_num_seqs",
    ),
    (
        "GPU out of memory in the warm-up",
        1,
        [
            CORE + "RuntimeError: CUDA out of memory occurred when warming up sampler with 256"
            " dummy requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when",
            WRAPPER,
        ],
        Cause.OUT_OF_MEMORY,
        "warming up sampler",
        "max_num_seqs below 256",
    ),
    (
        "memory that others gave back while it was measured",
        1,
        [
            CORE + "AssertionError: Error in memory profiling. Initial free memory 10.25 GiB,"
            " current free memory 12.5 GiB.",
            WRAPPER,
        ],
        Cause.OUT_OF_MEMORY,
        "Error in memory profiling",
        "load it again",
    ),
    (
        "a longer sequence than an older vLLM's KV cache holds",
        1,
        [
            CORE + "ValueError: The model's max seq len (131072) is larger than the maximum number"
            " of tokens that can be stored in KV cache (27856). Try increasing",
            WRAPPER,
        ],
        Cause.KV_TOO_SMALL,
        "max seq len (131072)",
        "set max_model_len to 27856 or less",
    ),
    (
        "a GPU that the engine was not built for",
        1,
        [
            "ERROR 07-28 15:07:22 [core.py:632] RuntimeError: CUDA error: no kernel image is"
            " available for execution on the device",
            "ERROR 07-28 15:07:22 [core.py:632] For debugging consider passing"
            " CUDA_LAUNCH_BLOCKING=1",
            WRAPPER,
        ],
        Cause.ENGINE_UNFIT,
        "no kernel image",
        "not built for this GPU",
    ),
    (
        "a kernel that is not for this GPU",
        1,
        [CORE + "torch.AcceleratorError: CUDA error: device kernel image is invalid", WRAPPER],
        Cause.ENGINE_UNFIT,
        "kernel image is invalid",
        "not built for this GPU",
    ),
    (
        "an NVSwitch machine whose fabric manager does not run",
        1,
        [
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda"
            " functions before calling NumCudaDevices() that might have already set an error? Error"
            " 802: system not yet initialized",
            "RuntimeError: Failed to infer device type",
        ],
        Cause.GPU_FAULT,
        "Error 802",
        "nvidia-fabricmanager",
    ),
    (
        "a GPU in exclusive mode",
        1,
        [
            CORE + "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or"
            " unavailable",
            WRAPPER,
        ],
        Cause.GPU_FAULT,
        "busy or unavailable",
        "nvidia-smi -c DEFAULT",
    ),
    (
        "a driver that is too old",
        1,
        [
            "RuntimeError: The NVIDIA driver on your system is too old (found version 12080)."
            " Please update your GPU driver by downloading and installing a new version",
            "RuntimeError: Failed to infer device type",
        ],
        Cause.ENGINE_UNFIT,
        "too old (found version 12080)",
        "CUDA up to 12.8: update it",
    ),
    (
        "a GPU without bfloat16",
        1,
        [
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least"
            " 8.0. Your Tesla T4 GPU has compute capability 7.5. You can use float16 instead"
        ],
        Cause.BAD_OPTION,
        "Tesla T4",
        'dtype = "half"',
    ),
    (
        "NCCL",
        1,
        [
            "(VllmWorkerProcess pid=761) ERROR 07-24 08:26:01 multiproc_worker_utils.py:226]"
            " Exception in worker VllmWorkerProcess while processing method init_device: NCCL"
            " error: unhandled cuda error (run with NCCL_DEBUG=INFO for details), Traceback",
        ],
        Cause.NCCL_FAILED,
        "NCCL error: unhandled cuda error",
        "NCCL_DEBUG",
    ),
    (
        "two ranks on one GPU",
        1,
        [
            "(Worker_TP1 pid=8) ERROR 11-21 02:16:27 [multiproc_executor.py:870] torch.distributed."
            "DistBackendError: NCCL error in: NCCLUtils.cpp:77, invalid usage",
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 3b000",
        ],
        Cause.NCCL_FAILED,
        "Duplicate GPU",
        "as many GPUs as tensor_parallel_size",
    ),
    (
        "fewer GPUs than parts",
        1,
        [
            "  Value error, World size (4) is larger than the number of available GPUs (2) in this"
            " node. If this is intentional and you are using:"
        ],
        Cause.BAD_OPTION,
        "World size (4)",
        "needs 4 GPUs and this worker has 2",
    ),
    (
        "a full disk while fetching",
        1,
        [
            "/v/huggingface_hub/file_download.py:651: UserWarning: Not enough free disk space to"
            " download the file. The expected file size is: 3945.44 MB.",
            CORE + "RuntimeError: Data processing error: CAS service error : IO Error: No space"
            " left on device (os error 28)",
            WRAPPER,
        ],
        Cause.DISK_FULL,
        "No space left on device",
        "HF_HOME",
    ),
    (
        "a private or misspelt hub id",
        1,
        [
            "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID:"
            " Root=1-69)",
            "Repository Not Found for url: https://hub/api/models/x/y. If you are trying to access"
            " a private or gated repo, make sure you are authenticated.",
        ],
        Cause.MODEL_NOT_FOUND,
        "RepositoryNotFoundError",
        "correct `source`, or give the model an HF_TOKEN",
    ),
    (
        "a hub that does not answer",
        1,
        [
            "OSError: We couldn't connect to 'https://hub' to load the files, and couldn't find"
            " them in the cached files."
        ],
        Cause.HUB_UNREACHABLE,
        "We couldn't connect",
        "network",
    ),
    (
        "quantized otherwise",
        1,
        [
            "  Value error, Quantization method specified in the model config (gptq) does not"
            " match the quantization method specified in the `quantization` argument (awq)." + TYPE
        ],
        Cause.BAD_OPTION,
        "(gptq) does not match",
        "quantized with gptq",
    ),
    (
        "code of the model's own",
        1,
        [
            "  Value error, The repository m contains custom code which must be executed to"
            " correctly load the model." + TYPE
        ],
        Cause.UNSUPPORTED_MODEL,
        "custom code",
        "trust_remote_code = true",
    ),
    (
        "shared memory too small",
        -7,
        [ULIMIT],
        Cause.KILLED,
        "SIGBUS",
        "/dev/shm",
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
    (
        "engine killed while it starts",
        1,
        [
            WRAPPER,
            "(Worker pid=9312) INFO 11-21 07:15:53 [multiproc_executor.py:843] Parent process"
            " exited, terminating worker queues",
            "(Worker pid=9312) ERROR 11-21 07:15:53 [multiproc_executor.py:953] WorkerProc failed"
            " to start.",
            "(Worker pid=9312) ERROR 11-21 07:15:53 [multiproc_executor.py:953]     n ="
            " write(self._handle, buf)",
            "(Worker pid=9312) ERROR 11-21 07:15:53 [multiproc_executor.py:953] BrokenPipeError:"
            " [Errno 32] Broken pipe",
        ],
        Cause.ENGINE_DIED,
        "Engine core initialization failed",
        "dmesg",
    ),
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
    assert failure.cause == Cause.GPU_FAULT
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
        f"a client came with vc-s3cret{'_' * 37}",
    ]
    failure = diagnose(log, Exit(1, asked=False, at=0.0), served=False)
    told = " ".join([failure.line, failure.remedy, *failure.log_excerpt])
    assert "s3cret" not in told
    assert told.count(BLANK) >= 6
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


SERVING = [
    (
        "(Worker_PP0 pid=2) ERROR 07-15 21:01:01 [multiproc_executor.py:1007]"
        " torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        Cause.GPU_FAULT,
        "devices",
    ),
    (
        "[rank0]:[E321 02:07:08.408 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective"
        " operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=4, NumelOut=4,"
        " Timeout(ms)=600000) ran for 600060 milliseconds before timing out.",
        Cause.NCCL_FAILED,
        "for 600 s",
    ),
    (
        "(EngineCore pid=7) ERROR 11-21 02:16:27 [core.py:1510] TimeoutError: RPC call to"
        " sample_tokens timed out.",
        Cause.NCCL_FAILED,
        "NCCL_DEBUG",
    ),
    (
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=4242, GPU has fallen off the bus.",
        Cause.GPU_FAULT,
        "off the bus",
    ),
    (
        "(EngineCore pid=7) ERROR 05-05 12:36:59 [core.py:1209] torch.OutOfMemoryError: CUDA out of"
        " memory. Tried to allocate 50.00 MiB.",
        Cause.OUT_OF_MEMORY,
        "requests need more",
    ),
]


@pytest.mark.parametrize(("line", "cause", "remedy"), SERVING)
def test_a_gpu_that_fails_under_a_running_server(line: str, cause: Cause, remedy: str) -> None:
    dead = (
        "(APIServer pid=9) ERROR 11-21 02:28:15 [async_llm.py:906]"
        " vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."
    )
    failure = diagnose([line, dead], Exit(0, asked=False, at=0.0), served=True)
    assert failure.cause == cause
    assert remedy in failure.remedy
    assert line in failure.log_excerpt


def test_a_program_quoted_by_a_traceback_is_no_telling_line() -> None:
    log = [
        CORE + "Traceback (most recent call last):",
        CORE + '  File "/v/vllm/v1/core/kv_cache_utils.py", line 1010, in _check',
        CORE + "    raise RuntimeError(f'CUDA out of memory. {hint}')",
        CORE + '        f"To serve at least one request with the model\'s max seq len "',
        CORE + "RuntimeError: Cannot find any model weights with `m`",
        WRAPPER,
    ]
    failure = diagnose(log, Exit(1, asked=False, at=0.0), served=False)
    assert failure.line == "RuntimeError: Cannot find any model weights with `m`"


def test_a_missing_chat_template_is_no_failure() -> None:
    log = [
        "(APIServer pid=9) ERROR 11-21 02:28:15 [serving.py:1] ValueError: As of transformers"
        " v4.44, default chat template is no longer allowed, so you must provide a chat template"
    ]
    failure = diagnose(log, Exit(3, asked=False, at=0.0), served=True)
    assert "its last line" in failure.line
    assert failure.cause == Cause.UNKNOWN


def test_every_remedy_can_be_said_of_its_own_match() -> None:
    for rule in RULES:
        if isinstance(rule.remedy, str):
            rule.remedy.format(**dict.fromkeys(rule.pattern.groupindex, "1"))
