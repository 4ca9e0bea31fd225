"""`completion`: completion for bash, zsh or fish, made from the command line as it is."""

from __future__ import annotations

import argparse

SUMMARY = "completion for bash, zsh or fish"
SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `completion`."""
    parser.description = (
        'Print a completion script. bash: eval "$(vllm-console completion bash)" in ~/.bashrc; '
        "zsh: the same with zsh in ~/.zshrc; fish: vllm-console completion fish | source."
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Print the script for one shell."""
    from vllm_console.cli.main import VERBS, build_parser

    words = _words(build_parser())
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words, VERBS))
    return 0


def _words(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Options, nested verbs and theirs by verb; "" holds those that stand before any verb."""
    words = {"": _options(parser)}
    for verb, sub in _subparsers(parser).items():
        nested = _subparsers(sub)
        inner = (option for each in nested.values() for option in _options(each))
        words[verb] = [*dict.fromkeys((*_options(sub), *nested, *inner))]
    return words


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [s for action in parser._actions for s in action.option_strings if s.startswith("--")]


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _bash(words: dict[str, list[str]], verbs: dict[str, str]) -> str:
    cases = "\n".join(
        f"    {verb}) words='{' '.join(options)}' ;;" for verb, options in words.items() if verb
    )
    return f"""\
_vllm_console() {{
  local word verb="" words cur="${{COMP_WORDS[COMP_CWORD]}}" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${{COMP_WORDS[i]}}"
    case "$word" in
      --fleet|--state-dir|--set) ((i++)) ;;
      -*) ;;
      *) verb="$word"; break ;;
    esac
  done
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
    --fleet) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --state-dir) COMPREPLY=($(compgen -d -- "$cur")); return ;;
  esac
  case "$verb" in
    "") words='{" ".join([*verbs, *words[""]])}' ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -F _vllm_console vllm-console"""


def _zsh(words: dict[str, list[str]], verbs: dict[str, str]) -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(words, verbs)}"


def _fish(words: dict[str, list[str]], verbs: dict[str, str]) -> str:
    lines = ["complete -c vllm-console -f"]
    for verb, summary in verbs.items():
        text = summary.replace("'", "\\'")
        lines.append(f"complete -c vllm-console -n __fish_use_subcommand -a {verb} -d '{text}'")
    for verb, options in words.items():
        for option in options:
            when = f"'__fish_seen_subcommand_from {verb}'" if verb else "__fish_use_subcommand"
            if option.startswith("--"):
                lines.append(f"complete -c vllm-console -n {when} -l {option[2:]}")
            else:
                lines.append(f"complete -c vllm-console -n {when} -a {option}")
    return "\n".join(lines)
