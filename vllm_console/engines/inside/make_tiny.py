"""Makes a tiny chat model with random weights: Qwen2, byte-level BPE, bfloat16, the same each time.

Run by an engine environment's Python as `python -I make_tiny.py DIRECTORY SHAPE`, where SHAPE is a
JSON object: hidden, layers, heads, kv_heads, intermediate, vocab, max_len, seed. Needs numpy and
tokenizers, which every vLLM brings; both are imported by name: the console has neither.

The text it generates is made of whole English words. Channel 0 of the residual stream is a constant
that no layer reads or writes; through it the output layer forbids every token that is not a word of
`WORDS`, a full stop, a comma or the end of the turn. The other channels are random, so the words
are too, and a turn ends by itself after about `MEAN_TURN` tokens.
"""

from __future__ import annotations

import json
import math
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

np: Any = import_module("numpy")
tokenizers: Any = import_module("tokenizers")

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, TURN_START, TURN_END]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MEAN_TURN = 240
"""Tokens an answer has on average when nothing else ends it."""
LOUDNESS = 4.0
"""The constant channel against the length of all others, so that its normed value is known."""

_VOCABULARY = """
a about above across after again air all almost along also always an and animal another answer any
are around as ask at away back be because become been before began begin being below between big
bird black blue boat body book both box boy bring brought build but by call came can car care carry
change children city clear close cold come common could country course cross cut dark day deep did
different do does done door down draw dry during each early earth east easy eat enough even evening
ever every example eye face fall family far farm fast father feel few field fill find fire first
fish five follow food foot for form found four free friend from front full garden gave get girl give
glass go gold good grass great green ground group grow had half hand happen hard has have he head
hear heart heat help her here high him his hold home horse hot hour house how hundred idea if in
inside into is island it its join just keep kind king knew know land large last late laugh lay lead
learn leave left less let letter life light like line list listen little live long look lost made
make man many map mark may me mean measure men might mile milk mind minute money moon more morning
most mother mountain move much music must my name near need never new next night no north not note
nothing notice now number of off often old on once one only open or order other our out over own
page paper part pass pattern people perhaps picture piece place plain plan plant play point power
press problem pull put question quick quiet rain ran reach read ready real red remember rest river
road rock room round run said sail same saw say school sea second see seem seen sentence set several
shape she ship short should show side simple since sing sit six sky sleep slow small snow so some
song soon sound south space stand star start state stay step still stone stood stop story street
strong study such summer sun sure table take talk tell ten than that the their them then there these
they thing think this those though thought three through time to together told too took top toward
town travel tree true try turn two under unit until up upon us use very voice wait walk wall want
war warm was watch water way we week well went were west what wheel when where which while white who
whole why will wind winter with without wood word work world would write year yes you young your
"""
WORDS = _VOCABULARY.split()


def corpus(rng: random.Random) -> list[str]:
    """Sentences that hold every word often enough to become one token, in both cases."""
    sentences = []
    for _ in range(40):
        words = rng.sample(WORDS, len(WORDS))
        for first in range(0, len(words), 10):
            sentences.append(" ".join(words[first : first + 10]).capitalize() + ". ")
            sentences.append(" " + " ".join(words[first : first + 10]) + ", ")
    return sentences


def make_tokenizer(vocab: int, seed: int) -> Any:
    """A byte-level BPE of at most `vocab` tokens, three of them special."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(random.Random(seed)), trainer)
    return tokenizer


def allowed(tokenizer: Any) -> dict[int, float]:
    """Token id -> how often it is said, against a word's 1; every other token is never said."""
    said = {}
    for word in WORDS:
        token = tokenizer.token_to_id("Ġ" + word)
        if token is not None:
            said[token] = 1.0
    words = len(said)
    said[tokenizer.token_to_id(".")] = words / 12
    said[tokenizer.token_to_id(",")] = words / 20
    said[tokenizer.token_to_id(TURN_END)] = sum(said.values()) / MEAN_TURN
    return said


def make_weights(shape: dict[str, int], rows: int, said: dict[int, float]) -> dict[str, Any]:
    """Every tensor of the model as float32, by its name in a Qwen2 checkpoint."""
    hidden, layers, inner = shape["hidden"], shape["layers"], shape["intermediate"]
    head = hidden // shape["heads"]
    rng = np.random.default_rng(shape["seed"])

    def normal(*size: int, gain: float = 1.0) -> Any:
        return rng.standard_normal(size, dtype=np.float32) * (gain / math.sqrt(size[-1]))

    def norm() -> Any:
        """Scales the random channels back to length 1 and hides the constant one."""
        scale = np.full(hidden, math.hypot(LOUDNESS, 1.0), np.float32)
        scale[0] = 0.0
        return scale

    quiet = 1 / math.sqrt(2 * layers)  # the residual stream keeps its length at any depth
    tensors = {"model.embed_tokens.weight": normal(rows, hidden, gain=math.sqrt(hidden))}
    tensors["model.embed_tokens.weight"][:, 0] = LOUDNESS * math.sqrt(hidden)
    for index in range(layers):
        at = f"model.layers.{index}."
        for name, heads in (("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads")):
            tensors[f"{at}self_attn.{name}_proj.weight"] = normal(shape[heads] * head, hidden)
            tensors[f"{at}self_attn.{name}_proj.bias"] = np.zeros(shape[heads] * head, np.float32)
        tensors[f"{at}self_attn.o_proj.weight"] = normal(hidden, shape["heads"] * head, gain=quiet)
        tensors[f"{at}mlp.gate_proj.weight"] = normal(inner, hidden)
        tensors[f"{at}mlp.up_proj.weight"] = normal(inner, hidden)
        tensors[f"{at}mlp.down_proj.weight"] = normal(hidden, inner, gain=quiet)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"{at}{name}.weight"][0] = 0.0
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = norm()
    last = norm()
    last[0] = 1.0
    tensors["model.norm.weight"] = last
    output = normal(rows, hidden)
    constant = LOUDNESS * math.sqrt(hidden) / math.hypot(LOUDNESS, 1.0)  # channel 0, normed
    output[:, 0] = -40.0 / constant
    for token, weight in said.items():
        output[token, 0] = math.log(weight) / constant
    tensors["lm_head.weight"] = output
    return tensors


def save_bfloat16(tensors: dict[str, Any], path: Path) -> None:
    """Write a safetensors file in bfloat16, which numpy lacks: rounded to nearest even by hand.

    The container is a little-endian length, a JSON header and the raw tensors one after another
    (https://github.com/huggingface/safetensors#format).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, tensor in tensors.items():
        bits = tensor.astype(np.float32).view(np.uint32)
        blob = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)


def write_json(path: Path, content: object) -> None:
    """Write one of the model's JSON files."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(out: Path, shape: dict[str, int]) -> None:
    """Write the whole model directory."""
    tokenizer = make_tokenizer(shape["vocab"], shape["seed"])
    rows = -(-tokenizer.get_vocab_size() // 64) * 64
    save_bfloat16(make_weights(shape, rows, allowed(tokenizer)), out / "model.safetensors")
    tokenizer.save(str(out / "tokenizer.json"))
    ends = {
        "bos_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "eos_token_id": tokenizer.token_to_id(TURN_END),
    }
    write_json(out / "generation_config.json", ends)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["hidden"] // shape["heads"],
        "vocab_size": rows,
        "max_position_embeddings": shape["max_len"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        **ends,
    }
    write_json(out / "config.json", config)
    tokens = {"bos_token": END_OF_TEXT, "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    about_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape["max_len"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        **tokens,
    }
    write_json(out / "tokenizer_config.json", about_tokenizer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
