"""fleet.toml becomes a fleet, or one line a problem with key, line and way out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from vllm_console.errors import InvalidInput
from vllm_console.fleet.load import FleetError, find_fleet, load_fleet
from vllm_console.fleet.model import Fleet, Gateway, Scale, Slo
from vllm_console.fleet.secrets import Secret

FULL = """\
[fleet]
name = "lab-a"
state_dir = "state"
gpu_hour_cost = 2.10

[gateway]
host = "0.0.0.0"
port = 4100
keys.alice = { file = "secrets/alice" }

[ui]
panels = "my-panels"

[defaults]
engine = "cpu"
[defaults.options]
gpu_memory_utilization = 0.90
max_num_seqs = 8
[defaults.env]
VLLM_NO_USAGE_STATS = "1"
HF_TOKEN = { env = "HF_TOKEN" }

[models."qwen2.5-7b"]
source = "Qwen/Qwen2.5-7B"
aliases = ["qwen"]
gpus = 2
idle_unload = "15m"
[models."qwen2.5-7b".options]
tensor_parallel_size = 2
max_num_seqs = 256
[models."qwen2.5-7b".env]
HF_TOKEN = { file = "secrets/HF_TOKEN" }
[models."qwen2.5-7b".sampling]
temperature = 0.7
[models."qwen2.5-7b".slo]
ttft_p95 = "350ms"
[models."qwen2.5-7b".scale]
min = 2
max = 4
target = 16

[models.old-box]
engine = "attach"
url = "http://10.0.0.7:8000"
"""


def load(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, *sets: str
) -> Fleet:  # fmt: skip
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return load_fleet(path, environ=environ or {}, sets=sets)


def problems(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, *sets: str
) -> list[str]:  # fmt: skip
    with pytest.raises(FleetError) as raised:
        load(folder, text, environ, *sets)
    assert str(raised.value) == str(raised.value.problems[0])
    return [str(problem) for problem in raised.value.problems]


def test_a_whole_file_becomes_a_fleet(tmp_path: Path) -> None:
    fleet = load(tmp_path, FULL)
    assert (fleet.name, fleet.gpu_hour_cost) == ("lab-a", 2.10)
    assert fleet.path == tmp_path / "fleet.toml"
    assert fleet.state_dir == tmp_path / "state"
    assert fleet.ui.panels == tmp_path / "my-panels"
    assert fleet.gateway == Gateway(
        host="0.0.0.0", port=4100, keys={"alice": Secret(file="secrets/alice")}
    )
    model = fleet.models["qwen2.5-7b"]
    assert (model.source, model.engine, model.aliases) == ("Qwen/Qwen2.5-7B", "cpu", ("qwen",))
    assert (model.gpus, model.idle_unload_s, model.workers) == (2, 900.0, 2)
    assert model.slo == Slo(ttft_p95_s=0.35)
    assert model.scale == Scale(min=2, max=4, target=16)
    assert model.sampling == {"temperature": 0.7}


def test_tables_of_the_defaults_merge_key_by_key_and_the_model_wins(tmp_path: Path) -> None:
    model = load(tmp_path, FULL).models["qwen2.5-7b"]
    assert model.options == {
        "gpu_memory_utilization": 0.90,
        "max_num_seqs": 256,
        "tensor_parallel_size": 2,
    }
    assert model.env == {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_TOKEN": Secret(file="secrets/HF_TOKEN"),
    }


def test_a_watched_worker_inherits_nothing_it_cannot_use(tmp_path: Path) -> None:
    box = load(tmp_path, FULL).models["old-box"]
    assert (box.attached, box.url, box.options, box.env) == (True, "http://10.0.0.7:8000", {}, {})


def test_what_the_file_does_not_say_is_built_in(tmp_path: Path) -> None:
    model = load(tmp_path, '[models.m]\nsource = "s"').models["m"]
    assert (model.engine, model.gpus, model.devices, model.autostart) == (
        "vllm",
        "auto",
        None,
        True,
    )
    assert (model.drain_timeout_s, model.start_timeout_s, model.workers) == (30.0, 1800.0, 1)
    assert (model.trust_remote_code, model.pinned, model.idle_unload_s) == (False, False, None)


def test_a_fleet_without_a_name_is_called_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lab-b"
    folder.mkdir()
    assert load(folder, "").name == "lab-b"


def test_a_path_of_an_engine_starts_at_the_file(tmp_path: Path) -> None:
    model = load(tmp_path, '[models.m]\nsource = "s"\nengine = "venv/bin/vllm"').models["m"]
    assert model.engine == str(tmp_path / "venv/bin/vllm")


def test_a_model_with_min_zero_still_loads_one_worker(tmp_path: Path) -> None:
    model = load(tmp_path, '[models.m]\nsource = "s"\nscale = { min = 0, max = 2 }').models["m"]
    assert model.workers == 1


M = '[models.m]\nsource = "s"\n'

ONE_PROBLEM = [
    # unknown keys
    ("[flet]", 'fleet.toml:1: flet: unknown key; did you mean "fleet"?'),
    ("[fleet]\nnmae = 'x'", 'fleet.toml:2: fleet.nmae: unknown key; did you mean "name"?'),
    ("[gateway]\nprot = 1", 'fleet.toml:2: gateway.prot: unknown key; did you mean "port"?'),
    (
        M + "[models.m.optoins]\na = 1",
        'fleet.toml:3: models.m.optoins: unknown key; did you mean "options"?',
    ),
    (
        M + "max_num_seqs = 4",
        "fleet.toml:3: models.m.max_num_seqs: unknown key; engine options go to [models.m.options]",
    ),
    (
        M + "slo = { ttft = '1s', ttft_p59 = '1s' }",
        'fleet.toml:3: models.m.slo.ttft: unknown key',
    ),
    (
        "[defaults]\nidle-unload = '5m'",
        'fleet.toml:2: defaults.idle-unload: unknown key; did you mean "idle_unload"?',
    ),
    (
        "[defaults]\ntrust_remote_code = true",
        "fleet.toml:2: defaults.trust_remote_code: is said by each model that wants it",
    ),
    # wrong types
    ("models = 3", "fleet.toml:1: models: must be a table: [models]"),
    ("models.m = 3", "fleet.toml:1: models.m: must be a table: [models.m]"),
    (M + "options = 3", "fleet.toml:3: models.m.options: must be a table"),
    ("[models.m]\nsource = 5", "fleet.toml:2: models.m.source: must be a text, not 5"),
    (M + "pinned = 'yes'", 'fleet.toml:3: models.m.pinned: must be true or false, not "yes"'),
    (M + "gpus = true", 'models.m.gpus: must be a number of GPUs or "auto", not true'),
    (M + "aliases = 'x'", 'models.m.aliases: must be a list, not "x"'),
    (M + "aliases = [\n'a',\n'b c']", "fleet.toml:5: models.m.aliases.1: an alias is one word"),
    (M + "scale.max = 0", "fleet.toml:3: models.m.scale.max: must be at least 1"),
    ("[gateway]\nport = 70000", "fleet.toml:2: gateway.port: must be at most 65535"),
    ("[models.'a b']\nsource = 's'", "fleet.toml:1: models.a b: a name starts with a letter"),
    ("[models.m]\nsource = '-x'", "fleet.toml:2: models.m.source: must be one line"),
    ("[models.m]", "fleet.toml:1: models.m: says no source"),
    # durations
    (M + "drain_timeout = 5", "fleet.toml:3: models.m.drain_timeout: must be a text with a unit"),
    (M + "idle_unload = '5 min'", 'fleet.toml:3: models.m.idle_unload: not a duration: "5 min"'),
    (M + "slo.itl_p95 = '0s'", "fleet.toml:3: models.m.slo.itl_p95: must be more than 0"),
    # aliases and ports
    (M + "aliases = ['m']", 'fleet.toml:3: models.m.aliases.0: "m" is this model\'s own name'),
    (
        M + "[models.n]\nsource = 's'\naliases = [\n 'm']",
        'fleet.toml:6: models.n.aliases.0: "m" is the name of models.m',
    ),
    (
        M + "aliases = ['x']\n[models.n]\nsource = 's'\naliases = ['x']",
        'fleet.toml:6: models.n.aliases.0: "x" is already an alias of models.m',
    ),
    (
        "[models.a]\nengine = 'attach'\nurl = 'http://localhost:4000'",
        "fleet.toml:3: models.a.url: port 4000 is already taken by the gateway",
    ),
    (
        "[models.a]\nengine='attach'\nurl='http://h:1'\n[models.b]\nengine='attach'\nurl='http://h:1'",
        "fleet.toml:6: models.b.url: port 1 is already taken by models.a",
    ),
    # GPUs
    (M + "devices = [0, 0]", "fleet.toml:3: models.m.devices: names GPU 0 twice"),
    (M + "devices = []", "fleet.toml:3: models.m.devices: names no GPU"),
    (M + "devices = [0]\ngpus = 2", "fleet.toml:3: models.m.devices: names 1 but gpus = 2"),
    (
        M + "gpus = 2",
        "models.m.gpus: gives models.m 2 GPUs but its engine uses 1; "
        "add options.tensor_parallel_size = 2",
    ),
    (
        M + "gpus = 2\noptions.tensor_parallel_size = 4",
        "fleet.toml:4: models.m.options.tensor_parallel_size: does not match gpus: "
        "tensor_parallel_size 4 runs on 4 GPUs, models.m has 2",
    ),
    (
        M + "devices = [0,1]\noptions = { tensor_parallel_size = 2, pipeline_parallel_size = 2 }",
        "does not match devices: tensor_parallel_size 2 × pipeline_parallel_size 2 runs on 4",
    ),
    (M + "scale = { min = 3, max = 2 }", "models.m.scale.min: is more than max = 2"),
    # attach
    ("[models.m]\nengine = 'attach'", 'fleet.toml:2: models.m.engine: "attach" needs to know'),
    (M + "url = 'http://x'", 'fleet.toml:3: models.m.url: is only for engine = "attach"'),
    (M + "api_key = { env = 'K' }", 'models.m.api_key: is only for engine = "attach"; keys of'),
    (
        "[models.m]\nengine = 'attach'\nurl = 'http://x'\napi_key = 'sk-12345678901234567890'",
        "fleet.toml:4: models.m.api_key: a secret is given as { file",
    ),
    (
        "[models.m]\nengine = 'attach'\nurl = 'http://x'\ngpus = 1",
        "fleet.toml:4: models.m.gpus: means nothing for a worker that is only watched",
    ),
    (
        "[models.m]\nengine = 'attach'\nurl = 'http://x:8000/v1'",
        "takes scheme, host and port alone: http://x:8000",
    ),
    ("[models.m]\nengine = 'attach'\nurl = 'x:8000'", 'is no address: "x:8000"'),
    ("[models.m]\nengine = 'attach'\nurl = 'http://x:99999'", "is no address: "),
    # secrets
    (
        M + "env.HF_TOKEN = 'abc'",
        'models.m.env.HF_TOKEN: a secret does not stand here: say { file = "…" }',
    ),
    ("[defaults]\nenv.API_KEY = 'abc'\n" + M, "fleet.toml:2: defaults.env.API_KEY: a secret does"),
    (M + f"env.X = 'hf_{'a' * 30}'", "models.m.env.X: a secret does not stand here"),
    (M + "env.X = { fil = 'a' }", "models.m.env.X: a secret is given as { file"),
    (M + "env.N = 1", "models.m.env.N: must be a text: put the value in quotes"),
    (M + "env.VLLM_API_KEY = { env = 'X' }", "models.m.env.VLLM_API_KEY: belongs to the console"),
    ("[gateway]\nkeys.alice = 'abc'", "fleet.toml:2: gateway.keys.alice: a secret is given as"),
    (
        "[models.m]\nengine = 'attach'\nurl = 'http://u:p@x'",
        "fleet.toml:3: models.m.url: holds a password",
    ),
    (
        M + "options.kv_transfer_config = { extra = { api_key = 'abc' } }",
        "models.m.options.kv_transfer_config: would put a secret on a command line",
    ),
    # the gateway, and options the console owns
    (
        "[gateway]\nkeys.anonymous = { env = 'K' }",
        "fleet.toml:2: gateway.keys.anonymous: cannot be the name of a key",
    ),
    (M + "options.port = 1", "fleet.toml:3: models.m.options.port: belongs to the console"),
    (M + "options.api_key = 'x'", "clients' keys go to [gateway.keys]"),
    (M + "options.ssl_keyfile = 'x'", "TLS belongs in front of [gateway]"),
    (M + "options.served_model_name = 'x'", "its own name and its aliases"),
    (M + "options.no_trust_remote_code = true", "say trust_remote_code = true in the model"),
    (M + "options.max-num-seqs = 1", 'is not in snake_case; write "max_num_seqs"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), ONE_PROBLEM)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    first = problems(tmp_path, text)[0]
    assert said in first
    assert first.startswith("fleet.toml:")
    assert "\n" not in first


GOOD = [
    "[gateway]\nhost = '0.0.0.0'",
    "[gateway]\nhost = '0.0.0.0'\nallow_anonymous = true",
    "[gateway]\nhost = '::1'",
    M + "gpus = 4\noptions = { tensor_parallel_size = 2, data_parallel_size = 2 }",
    M + "gpus = 0\noptions.tensor_parallel_size = 2",
    M + "devices = [1, 3]\noptions.tensor_parallel_size = 2",
    M + "env.HF_TOKEN_PATH = '/run/token'\nenv.TOKENIZERS_PARALLELISM = 'false'",
    M + "options.default_chat_template_kwargs = { eos_token = '<eos>' }",
    "[models.m]\nengine = 'attach'\nurl = 'http://x:8000/'",
    "# nothing yet\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_holds_is_accepted(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)


def test_every_problem_is_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "[gateway]\nport = '1'\n"
        "[defaults.env]\nHF_TOKEN = 'abc'\nOMP_NUM_THREADS = 1\n"
        "[models.a]\nsource = 1\noptions.port = 2\n"
        "[models.b]\nsorce = 's'\n"
    )
    told = [line.split(": ")[:2] for line in problems(tmp_path, text)]
    assert told == [
        ["fleet.toml:2", "gateway.port"],
        ["fleet.toml:4", "defaults.env.HF_TOKEN"],
        ["fleet.toml:5", "defaults.env.OMP_NUM_THREADS"],
        ["fleet.toml:7", "models.a.source"],
        ["fleet.toml:8", "models.a.options.port"],
        ["fleet.toml:10", "models.b.sorce"],
    ]


def test_no_problem_repeats_a_secret(tmp_path: Path) -> None:
    text = M + "env = { HF_TOKEN = 'sesame', API_KEY = ['sesame'], DB_PASSWORD = { x = 'sesame' } }"
    assert not any("sesame" in line for line in problems(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fleet]\nname = \n", "fleet.toml:2: column 8: invalid value"),
        ("[fleet", "fleet.toml:1: at the end: "),
        ('a = """\n\n', "fleet.toml:2: at the end: unterminated string"),
        ("a = 1\na = 2\n", "fleet.toml:2: column 6: cannot overwrite a value"),
    ],
)
def test_broken_toml_is_one_line_with_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith(said)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    for name, said in (
        ("missing.toml", "no such file"),
        (".", "is a directory"),
        ("latin.toml", "is not UTF-8 text (byte 5)"),
    ):
        with pytest.raises(FleetError, match=re.escape(said)) as raised:
            load_fleet(tmp_path / name, environ={})
        assert "\n" not in str(raised.value)


def test_the_fleet_file_is_found_here_or_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "config" / "vllm-console"
    home.mkdir(parents=True)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    with pytest.raises(InvalidInput, match="--fleet FILE"):
        find_fleet(None, environ)
    (home / "fleet.toml").touch()
    assert find_fleet(None, environ) == home / "fleet.toml"
    (tmp_path / "fleet.toml").touch()
    assert find_fleet(None, environ) == tmp_path / "fleet.toml"


@pytest.mark.parametrize(
    ("said", "served"),
    [
        ("", True),
        ("host = 'localhost'", True),
        ("host = '[::1]'", True),
        ("host = '0.0.0.0'", False),
        ("host = 'box.example'", False),
        ("host = '0.0.0.0'\nallow_anonymous = true", True),
        ("allow_anonymous = false", False),
    ],
)
def test_requests_without_a_key_are_served_unasked_only_to_this_machine(
    tmp_path: Path, said: str, served: bool
) -> None:
    assert load(tmp_path, f"[gateway]\n{said}\n").gateway.anonymous is served
