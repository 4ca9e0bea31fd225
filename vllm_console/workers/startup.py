"""From vLLM's log to startup stages, progress, and the facts of the engine that came up.

Lines look like `(EngineCore pid=7) INFO 11-21 02:02:30 [core.py:402] text`; uvicorn, warnings and
progress bars have no prefix, and progress bars redraw themselves with \\r. Texts are those of vLLM
0.9 to 0.32; one that a version does not print leaves its fact `None` and its stage out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm_console.snapshot import Engine
from vllm_console.workers.logs import plain

STAGES = ("import", "config", "weights", "compile", "kv-cache", "graphs", "serving")
"""In vLLM's own order. A stage that this engine skips (compile, graphs) is passed over."""

_SHARE = (0.0, 0.15, 0.35, 0.65, 0.85, 0.9, 0.98)
"""Share of a start that has passed when a stage begins, where no earlier start tells better."""

_PREFIX = re.compile(
    r"(?:\((?P<process>[\w-]+)(?: pid=\d+)?\) )?"
    r"(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[[^\]]+\] ?)?"
)
_BEGINS = (
    (re.compile(r"\bversion \d|non-default args:|Resolved architecture:"), "config"),
    (re.compile(r"Starting to load model|Loading \w+ checkpoint shards:"), "weights"),
    (
        re.compile(
            r"Warming up model for the compilation|Dynamo bytecode transform|Using cache directory:"
            r"|Compiling a graph|Start compiling"
        ),
        "compile",
    ),
    (re.compile(r"KV cache size:|Available KV cache memory|GiB for KV cache"), "kv-cache"),
    (re.compile(r"Capturing CUDA graph|Graph capturing finished"), "graphs"),
    (
        re.compile(r"Starting vLLM (?:API )?server .*\bon http|^INFO:\s+Application startup comp"),
        "serving",
    ),
)
_COUNTED = re.compile(
    r"(?P<what>checkpoint shards|CUDA graph)[^|]*\|(?:[^|]*\|)? *(?P<n>\d+)/(?P<of>\d+) \["
)
_GIB = 1 << 30
_LONGEST_LINE = 1 << 16


class Startup:
    """Reads one start of one worker's log, in pieces of any size."""

    def __init__(self) -> None:
        self.stage = STAGES[0]
        self.engine = Engine()
        self.counted: tuple[str, int, int] | None = None
        """What the present stage counts: ("checkpoint shards", 3, 14)."""
        self._rest = b""
        self._furthest = 0.0
        self._by_process: dict[str, dict[str, float]] = {}

    @property
    def serving(self) -> bool:
        """vLLM says that its HTTP server starts: readiness is a matter of milliseconds."""
        return self.stage == STAGES[-1]

    @property
    def detail(self) -> str | None:
        """What the present stage counts, in words; `None` when it counts nothing."""
        if self.counted is None:
            return None
        what, n, of = self.counted
        return f"{what} {n} of {of}"

    def feed(self, data: bytes) -> bool:
        """Take the next bytes of the log; True when a stage or its count moved."""
        before = self.stage, self.counted
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        self._rest = self._rest[-_LONGEST_LINE:]
        for line in lines:
            if line:
                self._line(plain(line.decode("utf-8", "replace")))
        self._count(plain(self._rest.decode("utf-8", "replace")))
        return before != (self.stage, self.counted)

    def progress(self, elapsed_s: float, expected_s: float | None) -> float:
        """Share of the start that has passed, 0..1; never goes back.

        By time where earlier starts tell how long it takes, else by stages.
        """
        if expected_s:
            now = min(0.99, elapsed_s / expected_s)
        else:
            index = STAGES.index(self.stage)
            now = _SHARE[index]
            if self.counted is not None and self.counted[2] and index + 1 < len(STAGES):
                done = self.counted[1] / self.counted[2]
                now += (_SHARE[index + 1] - now) * min(1.0, done)
        self._furthest = max(self._furthest, now)
        return self._furthest

    def _line(self, line: str) -> None:
        prefix = _PREFIX.match(line)
        process = prefix["process"] if prefix and prefix["process"] else ""
        text = line[prefix.end() :] if prefix else line
        for pattern, stage in _BEGINS:
            if STAGES.index(stage) > STAGES.index(self.stage) and pattern.search(text):
                self.stage, self.counted = stage, None
        self._count(text)
        for pattern, learn in _FACTS:
            found = pattern.search(text)
            if found:
                learn(self, found, process)

    def _count(self, text: str) -> None:
        for found in _COUNTED.finditer(text):
            stage = "weights" if found["what"] == "checkpoint shards" else "graphs"
            if STAGES.index(stage) > STAGES.index(self.stage):
                self.stage = stage
            if stage == self.stage:
                self.counted = found["what"], int(found["n"]), int(found["of"])

    def _set(self, **facts: Any) -> None:
        self.engine = replace(self.engine, **{k: v for k, v in facts.items() if v is not None})

    def _add(self, fact: str, process: str, value: float) -> float:
        """Ranks and data-parallel engines report their own part: the sum over processes."""
        parts = self._by_process.setdefault(fact, {})
        parts[process] = value
        return sum(parts.values())

    # --- what a line tells --------------------------------------------------------------------

    def _config(self, found: re.Match[str], process: str) -> None:
        self._set(version=found["version"])
        values = dict(_SETTING.findall(found["config"]))
        speculative = _SPECULATIVE.search(found["config"])
        self._set(
            dtype=_text(values, "dtype"),
            quantization=_text(values, "quantization"),
            kv_cache_dtype=_text(values, "kv_cache_dtype"),
            max_model_len=_whole(values, "max_seq_len"),
            tensor_parallel_size=_whole(values, "tensor_parallel_size"),
            pipeline_parallel_size=_whole(values, "pipeline_parallel_size"),
            data_parallel_size=_whole(values, "data_parallel_size"),
            enforce_eager=_flag(values, "enforce_eager"),
            prefix_caching=_flag(values, "enable_prefix_caching"),
            chunked_prefill=_flag(values, "enable_chunked_prefill"),
            speculative=speculative and " ".join(filter(None, speculative.groups())),
            load_format=_text(values, "load_format"),
            cuda_graphs=_mode(_GRAPHS, found["config"]),
            compilation=_mode(_COMPILATION, found["config"]),
        )
        ranges = _RANGES.search(found["config"])
        if ranges and self.engine.max_num_batched_tokens is None:
            ends = [int(end) for end in ranges[1].split(",") if end.strip().isdigit()]
            self._set(max_num_batched_tokens=max(ends, default=None))

    def _arguments(self, found: re.Match[str], process: str) -> None:
        try:
            given = ast.literal_eval(found["arguments"])
        except (SyntaxError, ValueError):
            return
        if not isinstance(given, dict):
            return

        def number(name: str, kind: type) -> Any:
            return given[name] if isinstance(given.get(name), kind) else None

        self._set(
            max_num_seqs=number("max_num_seqs", int),
            max_num_batched_tokens=number("max_num_batched_tokens", int),
            block_size=number("block_size", int),
            kv_cache_bytes=number("kv_cache_memory_bytes", int),
            gpu_memory_utilization=number("gpu_memory_utilization", float),
            sleep_mode=given.get("enable_sleep_mode") is True,
            lora=given.get("enable_lora") is True,
        )

    def _kv_tokens(self, found: re.Match[str], process: str) -> None:
        tokens = float(found["tokens"].replace(",", ""))
        self._set(kv_cache_tokens=int(self._add("kv_cache_tokens", process, tokens)))

    def _concurrency(self, found: re.Match[str], process: str) -> None:
        times = self._add("max_concurrency", process, float(found["times"]))
        self._set(max_concurrency=times)

    def _kv_bytes(self, found: re.Match[str], process: str) -> None:
        if self.engine.kv_cache_bytes is None or "kv_cache_bytes" in self._by_process:
            size = float(found["gib"]) * _GIB
            self._set(kv_cache_bytes=int(self._add("kv_cache_bytes", process, size)))

    def _weights(self, found: re.Match[str], process: str) -> None:
        size = float(found["gib"]) * _GIB
        self._set(weights_bytes=int(self._add("weights_bytes", process, size)))

    def _graphs(self, found: re.Match[str], process: str) -> None:
        size = float(found["gib"]) * _GIB
        self._set(graphs_bytes=int(self._add("graphs_bytes", process, size)))

    def _checkpoint(self, found: re.Match[str], process: str) -> None:
        size = int(float(found["gib"]) * _GIB)
        if size and self.engine.weights_bytes is None:
            self._set(weights_bytes=size)


def _mode(pattern: re.Pattern[str], config: str) -> str | None:
    """An enumeration's name as words: `FULL_AND_PIECEWISE` is "full and piecewise"."""
    found = pattern.search(config)
    return found[1].lower().replace("_", " ") if found else None


def _text(values: dict[str, str], name: str) -> str | None:
    value = values.get(name)
    return None if value in (None, "None") else value.strip("'").removeprefix("torch.")


def _whole(values: dict[str, str], name: str) -> int | None:
    value = values.get(name, "")
    return int(value) if value.isdigit() else None


def _flag(values: dict[str, str], name: str) -> bool | None:
    return {"True": True, "False": False}.get(values.get(name, ""))


_SETTING = re.compile(
    r"(?:^|, )(dtype|quantization|kv_cache_dtype|load_format|max_seq_len"
    r"|(?:tensor|pipeline|data)_parallel_size|enforce_eager|enable_prefix_caching|enable_chunked_prefill)=([^,()]*)"
)
_SPECULATIVE = re.compile(
    r"speculative_config=SpeculativeConfig\((?:method='([^']*)')?.*?num_spec_tokens=(\d+)"
)
_GRAPHS = re.compile(r"'?cudagraph_mode'?[:=] ?<CUDAGraphMode\.(\w+)")
_COMPILATION = re.compile(r"'(?:mode|level)': <Compilation(?:Mode|Level)\.(\w+)")
_RANGES = re.compile(r"'compile_ranges_endpoints': \[([\d, ]+)\]")
"""vLLM compiles for steps of up to max_num_batched_tokens, the highest of these (config/vllm.py,
`_set_compile_ranges`); the one place where it says a value that nobody set."""

_Learn = Callable[[Startup, "re.Match[str]", str], None]


def _fact(name: str, kind: type = str) -> _Learn:
    def learn(startup: Startup, found: re.Match[str], process: str) -> None:
        startup._set(**{name: kind(found[1])})

    return learn


_FACTS: tuple[tuple[re.Pattern[str], _Learn], ...] = (
    (re.compile(r"^.{0,40}\bversion (\d[\w.+]*)\s*$"), _fact("version")),
    (re.compile(r"vLLM API server version (\d[\w.+]*)"), _fact("version")),
    (re.compile(r"Resolved architecture: (\w+)"), _fact("architecture")),
    (re.compile(r"Using max model len (\d+)"), _fact("max_model_len", int)),
    (
        re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)"),
        _fact("max_num_batched_tokens", int),
    ),
    (re.compile(r"^Using (\w+) attention backend"), _fact("attention_backend")),
    (re.compile(r"^Using (Flash Attention|Triton|FlashInfer) backend"), _fact("attention_backend")),
    (
        re.compile(r"^Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]+) backend\.?$"),
        _fact("attention_backend"),
    ),
    (re.compile(r"# (?:GPU|cuda) blocks: (\d+)"), _fact("kv_cache_blocks", int)),
    (re.compile(r"Graph capturing finished in .*, took (?P<gib>[\d.]+) GiB"), Startup._graphs),
    (
        re.compile(
            r"Initializing a V\d LLM engine \(v(?P<version>[\w.+]+)\) with config: (?P<config>.+)"
        ),
        Startup._config,
    ),
    (re.compile(r"non-default args: (?P<arguments>\{.*\})"), Startup._arguments),
    (re.compile(r"KV cache size: (?P<tokens>[\d,]+) tokens"), Startup._kv_tokens),
    (re.compile(r"Maximum concurrency for .*: (?P<times>[\d.]+)x"), Startup._concurrency),
    (re.compile(r"Available KV cache memory: (?P<gib>[\d.]+) GiB"), Startup._kv_bytes),
    (re.compile(r"Explicitly set \((?P<gib>[\d.]+)/[\d.]+\) GiB for KV"), Startup._kv_bytes),
    (re.compile(r"Model loading took (?P<gib>[\d.]+) GiB"), Startup._weights),
    (re.compile(r"Checkpoint size: (?P<gib>[\d.]+) GiB"), Startup._checkpoint),
)
