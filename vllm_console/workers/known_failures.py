"""What vLLM, PyTorch, NCCL and the hub write when they fail, and what to do about each.

Texts are vLLM 0.32's unless said otherwise. The order matters: the first rule that fits any line
of a log wins, so a root cause stands before what follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vllm_console.workers.states import Cause


@dataclass(frozen=True, slots=True)
class Told:
    """A line that fits a rule, and where in the log it stands."""

    groups: dict[str, str]
    """Named groups of the rule's pattern."""
    before: str
    """The line before it."""
    loaded: bool
    """The weights were loaded by then."""
    served: bool
    """The worker had been ready."""


Remedy = str | Callable[[Told], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One known failure."""

    cause: Cause
    pattern: re.Pattern[str]
    remedy: Remedy
    """A text that may name groups of the pattern, or a function that makes one."""

    def advice(self, told: Told) -> str:
        """What to do about this very line."""
        if callable(self.remedy):
            return self.remedy(told)
        return self.remedy.format(**told.groups)


def _rule(cause: Cause, pattern: str, remedy: Remedy) -> Rule:
    return Rule(cause, re.compile(pattern), remedy)


def _divisors(told: Told) -> str:
    heads = int(told.groups["heads"])
    fitting = [str(n) for n in range(1, min(heads, 16) + 1) if heads % n == 0]
    return f"set tensor_parallel_size to one of {', '.join(fitting) or '1'}"


def _share_of_free_memory(told: Told) -> str:
    free, total = float(told.groups["free"]), float(told.groups["total"])
    share = int(free / total * 100) / 100 if total else 0.0
    if share < 0.05:
        return f"another process holds this GPU: only {free:g} of {total:g} GiB are free; end it"
    return (
        f"another process holds {total - free:.1f} GiB of this GPU: set gpu_memory_utilization to"
        f" {share:g} or less, or end that process"
    )


def _gpu_out_of_memory(told: Told) -> str:
    if told.served:
        return "lower gpu_memory_utilization or max_num_seqs: requests need more than was left"
    if told.loaded:
        return (
            "the weights fit, the rest does not: lower max_num_seqs or max_num_batched_tokens, or"
            " gpu_memory_utilization"
        )
    return (
        "the weights do not fit: spread them with tensor_parallel_size, use a quantized model, or"
        " free the GPU"
    )


def _newest_cuda(told: Told) -> str:
    version = told.groups.get("version")
    if not version:
        return "update the NVIDIA driver, or install an engine built for an older CUDA"
    cuda = f"{int(version) // 1000}.{int(version) % 1000 // 10}"
    return f"it knows CUDA up to {cuda}: update it, or install an engine built for CUDA {cuda}"


_XIDS = {
    "13": "a kernel did what it must not: most likely a bug of this vLLM or its model code",
    "31": "a kernel read memory that is not its own: most likely a bug of this vLLM",
    "48": "memory error that could not be corrected: reset the GPU, replace it if that returns",
    "63": "a memory row was retired: reset the GPU when nothing runs on it",
    "64": "retiring a memory row failed: reset the GPU, replace it if that returns",
    "74": "NVLink error: reset the GPU, check its bridge",
    "79": "the GPU fell off the bus: power, cooling or slot; reboot, then take it out of `devices`",
    "94": "a contained memory error: load it again; reset the GPU if that returns",
    "95": "an uncontained memory error: reset the GPU before anything uses it",
    "119": "the GPU's own processor stopped answering: reset the GPU, update the driver",
}
"""NVIDIA's "Xid Errors" catalogue, the ones a server meets."""


def _xid(told: Told) -> str:
    return _XIDS.get(told.groups["xid"], "NVIDIA's list of Xid errors has its meaning; reset it")


def _field(told: Told) -> str:
    name = told.before.strip().split(".")[-1]
    if not re.fullmatch(r"[a-z]\w*", name):
        return "vLLM refuses a value: see this line's neighbours in the log"
    wish = told.groups["what"].removeprefix("be ")
    return f"{name} must be {wish}, and is {told.groups['given']}"


def _choices(told: Told) -> str:
    choices = told.groups.get("choices")
    takes = f"one of {choices}" if choices else "a value that this vLLM takes"
    return f"give {told.groups['what']} {takes}"


_HUB_ACCESS = "ask for access on the model's page, and give the model an HF_TOKEN that has it"
_GPU_FAULT = (
    "the GPU or a kernel on it faulted: `dmesg | grep -i xid` names the fault; if this GPU does"
    " it again, leave it out with devices = […]"
)
_NCCL = (
    'this worker\'s GPUs do not reach each other: env.NCCL_DEBUG = "INFO" shows why; a full'
    ' /dev/shm or broken peer access (env.NCCL_P2P_DISABLE = "1") is the usual reason'
)

RULES = (
    # --- the command line ---
    _rule(
        Cause.BAD_OPTION,
        r"error: unrecognized arguments: (?P<what>.+)",
        "this vLLM has no such option: take it out of the model's options, or name another engine",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"error: argument (?P<what>\S+?):? (?:invalid|expected)"
        r"(?:.*\(choose from (?P<choices>[^)]*)\))?",
        _choices,
    ),
    _rule(Cause.BAD_OPTION, r"port must be 0-65535", "set `port` between 1024 and 65535"),
    _rule(
        Cause.PORT_IN_USE,
        r"Address already in use|error while attempting to bind on address",
        "another process has the port; the next start takes a free one unless `port` is set",
    ),
    # --- the disk and the hub ---
    _rule(
        Cause.DISK_FULL,
        r"No space left on device|\[Errno 28\]|os error 28",
        "free space where the hub's cache and temporary files lie, or point env.HF_HOME elsewhere",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"HFValidationError: Repo id must be",
        "no such directory, and not a hub id: correct `source`",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"outgoing traffic has been disabled|OfflineModeIsEnabled",
        "not in the local cache and the hub is off limits: fetch it first, or unset HF_HUB_OFFLINE",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"RepositoryNotFoundError|RevisionNotFoundError|Repository Not Found for url"
        r"|is not a local folder and is not a valid|404 Client Error",
        "the hub has no such model, or it is private: correct `source`, or give the model an"
        " HF_TOKEN",
    ),
    _rule(
        Cause.GATED_MODEL,
        r"gated repo|GatedRepoError|Access to model .* is restricted",
        _HUB_ACCESS,
    ),
    _rule(
        Cause.GATED_MODEL,
        r"Invalid (?:user token|credentials in Authorization header)|401 Client Error"
        r"|403 Client Error",
        "the hub refuses this HF_TOKEN, or none was given: " + _HUB_ACCESS,
    ),
    _rule(
        Cause.HUB_UNREACHABLE,
        r"429 Client Error",
        "the hub limits how much is fetched: give the model an HF_TOKEN, or wait",
    ),
    _rule(
        Cause.HUB_UNREACHABLE,
        r"We couldn't connect to '|LocalEntryNotFoundError|Cannot find an appropriate cached"
        r"|An error happened while trying to locate the files on the Hub"
        r"|5\d\d Server Error|CAS service error|Name or service not known"
        r"|Temporary failure in name resolution",
        "the hub does not answer and the model is not in the local cache: check the network, or"
        " fetch it elsewhere",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"Can't load the configuration of|does not appear to have a file named config\.json"
        r"|[Nn]o config(?:uration)? file found|Invalid repository ID or local directory",
        "that directory holds no model: correct `source`",
    ),
    # --- the model's files ---
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"config file at .* is not a valid JSON",
        "the model's config.json is damaged: fetch the model again",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"Cannot find any model weights with",
        "the directory has a configuration and no weights: fetch the model again",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"SafetensorError|Error while deserializing header|PytorchStreamReader failed",
        "a weight file is damaged or cut short: fetch the model again",
    ),
    _rule(
        Cause.WEIGHTS_BROKEN,
        r"The size of tensor a \(\d+\) must match|size mismatch for|Attempted to load weight"
        r"|[Ww]eights were not initialized from checkpoint",
        "weights and config.json do not belong together: fetch the model again",
    ),
    _rule(
        Cause.UNSUPPORTED_MODEL,
        r"Transformers does not recognize this architecture"
        r"|Model architectures .* are not supported",
        "this vLLM does not know the architecture: use a newer engine for this model",
    ),
    _rule(
        Cause.UNSUPPORTED_MODEL,
        r"contains custom code which must be executed|set the option `trust_remote_code=True`",
        "the model brings code of its own: read it, then say trust_remote_code = true of the model",
    ),
    # --- the GPU itself ---
    _rule(Cause.GPU_FAULT, r"Xid \([^)]*\): (?P<xid>\d+)", _xid),
    _rule(
        Cause.ENGINE_UNFIT,
        r"driver on your system is too old(?: \(found version (?P<version>\d+)\))?"
        r"|CUDA driver version is insufficient|unsupported display driver / cuda driver"
        r"|forward compatibility was attempted",
        _newest_cuda,
    ),
    _rule(
        Cause.ENGINE_UNFIT,
        r"no kernel image is available for execution|is not compatible with the current PyTorch"
        r"|device kernel image is invalid",
        "this engine was not built for this GPU: install one that is (`engines install`)",
    ),
    _rule(
        Cause.GPU_FAULT,
        r"system not yet initialized",
        "NVSwitch is not set up: start nvidia-fabricmanager of the driver's own version",
    ),
    _rule(
        Cause.GPU_FAULT,
        r"CUDA-capable device\(s\) is/are busy or unavailable",
        "another process has the GPU to itself: end it, or `nvidia-smi -c DEFAULT`",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"Bfloat16 is only supported on GPUs",
        'this GPU is too old for bfloat16: set dtype = "half"',
    ),
    # --- memory ---
    _rule(
        Cause.KV_TOO_SMALL,
        r"To serve at least one request with the model's max seq len.*maximum model length is"
        r" (?P<what>\d+)",
        "set max_model_len to {what} or less, or give the KV cache more memory",
    ),
    _rule(
        Cause.KV_TOO_SMALL,
        r"To serve at least one request.*\((?P<need>[\d.]+) GiB KV cache is needed",
        "one request of max_model_len needs {need} GiB: lower it, or raise gpu_memory_utilization",
    ),
    _rule(
        Cause.KV_TOO_SMALL,
        r"max seq len \(\d+\) is larger than the maximum number of tokens that can be"
        r" stored in KV cache \((?P<what>\d+)\)",
        "set max_model_len to {what} or less, or raise gpu_memory_utilization",
    ),
    _rule(
        Cause.KV_TOO_SMALL,
        r"To serve at least one request|larger than the maximum number of tokens that can be"
        r" stored|No available memory for the cache blocks",
        "the weights leave no room: raise gpu_memory_utilization, or use more GPUs",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"Free memory on device \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup",
        _share_of_free_memory,
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"Error in memory profiling",
        "another program changed its GPU memory while vLLM measured it: load it again",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"Available memory on node \d+ \((?P<free>[\d.]+)/.*is less than requested memory",
        "set kv_cache_memory_bytes below {free} GiB, or free memory on this machine",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"out of memory occurred when warming up \w+.* with (?P<what>\d+) dummy requests",
        "set max_num_seqs below {what}, or lower gpu_memory_utilization",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|HIP out of memory"
        r"|CUBLAS_STATUS_ALLOC_FAILED",
        _gpu_out_of_memory,
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        r"^MemoryError|std::bad_alloc|Cannot allocate memory|DefaultCPUAllocator: can't allocate",
        "the machine is out of memory: run fewer workers, or a smaller KV cache",
    ),
    # --- GPU faults and what joins several GPUs ---
    _rule(
        Cause.GPU_FAULT,
        r"(?:CUDA|HIP) error: (?:an illegal (?:memory access|instruction)|device-side assert"
        r"|unspecified launch failure|misaligned address|uncorrectable ECC|unknown error"
        r"|hardware stack error)|CUBLAS_STATUS_EXECUTION_FAILED|GPU is lost|fallen off the bus",
        _GPU_FAULT,
    ),
    _rule(
        Cause.NCCL_FAILED,
        r"Duplicate GPU detected",
        "two parts of this worker got the same GPU: give it as many GPUs as tensor_parallel_size",
    ),
    _rule(
        Cause.NCCL_FAILED,
        r"Watchdog caught collective operation timeout.*ran for (?P<ms>\d+) milliseconds",
        lambda told: f"no answer from another GPU for {int(told.groups['ms']) // 1000} s: {_NCCL}",
    ),
    _rule(
        Cause.NCCL_FAILED,
        r"NCCL [Ee]rror|nccl(?:UnhandledCuda|System|Internal|Remote)Error|DistBackendError"
        r"|RPC call to \w+ timed out",
        _NCCL,
    ),
    # --- the engine environment ---
    _rule(
        Cause.ENGINE_MISSING,
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver"
        r"|no CUDA-capable device is detected",
        "this engine finds no GPU: install the CPU engine (`engines install cpu`), or the driver",
    ),
    _rule(
        Cause.ENGINE_MISSING,
        r"ModuleNotFoundError: No module named|ImportError: |operator torchvision::nms does not"
        r"|PackageNotFoundError|undefined symbol: ",
        "this engine environment is broken: remove it and install it again",
    ),
    # --- options against the model ---
    _rule(
        Cause.BAD_OPTION,
        r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len"
        r" \(\w+=(?P<most>\d+)",
        "max_model_len {asked} exceeds the model's {most}: set max_model_len to {most} or less",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size",
        _divisors,
    ),
    _rule(
        Cause.BAD_OPTION,
        r"World size \((?P<size>\d+)\) is larger than the number of available GPUs"
        r" \((?P<there>\d+)\)",
        "tensor × pipeline parallelism needs {size} GPUs and this worker has {there}: set gpus ="
        " {size}",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"Cannot find the config file for (?P<what>\w+)",
        "the model is not quantized with {what}: take `quantization` out of its options",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"method specified in the model config \((?P<made>[\w-]+)\) does not match",
        "the model is quantized with {made}: take `quantization` out of its options",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"max_num_batched_tokens \((?P<batch>\d+)\) is smaller than max_model_len \((?P<len>\d+)\)",
        "set max_num_batched_tokens to {len} or more, or max_model_len to {batch} or less",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"max_num_batched_tokens \((?P<batch>\d+)\) must be greater than or equal to max_num_seqs"
        r" \((?P<seqs>\d+)\)",
        "set max_num_batched_tokens to {seqs} or more, or max_num_seqs to {batch} or less",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"Sleep mode is not supported on current platform",
        "take enable_sleep_mode out of the model's options: only GPUs have it",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"Value error, (?P<what>.+)",
        "vLLM refuses these options: change the one that it names",
    ),
    _rule(
        Cause.BAD_OPTION,
        r"^\s+Input should (?P<what>.+?) \[type=\w+, input_value=(?P<given>[^,]+),",
        _field,
    ),
    _rule(
        Cause.BAD_OPTION,
        r"validation errors? for (?P<what>\w+Config)",
        "vLLM refuses a value of its {what}: see the next lines of the log",
    ),
    # --- nothing better ---
    _rule(
        Cause.ENGINE_DIED,
        r"died unexpectedly|EngineDeadError|engine core exited unexpectedly",
        "the engine process ended under a running server: see the log before this line",
    ),
)

WHILE_SERVING = frozenset(
    {Cause.OUT_OF_MEMORY, Cause.GPU_FAULT, Cause.NCCL_FAILED, Cause.ENGINE_DIED}
)
"""The others end a start: in the log of a worker that served, such a line was something else."""

LOADED = re.compile(r"Model loading took|Loading weights took|init engine \(profile")
"""Said once the weights are in memory."""

NO_FAILURE = re.compile(
    r"chat template is no longer allowed|No chat template|BadRequestError|BrokenPipeError"
)
"""Errors of requests (a model without a chat template serves completions all the same), and what
is left to say for a process whose parent was killed."""
