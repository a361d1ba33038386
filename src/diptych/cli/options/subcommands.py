"""Commands that have sub-commands: ``diptych data build``, ``diptych index info``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from diptych.core.errors import UnknownName

Sub = Callable[[Sequence[str]], int]


def dispatch(command: str, subs: Mapping[str, tuple[Sub, str]], argv: Sequence[str]) -> int:
    """Call the sub-command that `argv` names; without one, or with --help, list them."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, subs))
        print(f"usage: diptych {command} SUBCOMMAND [options]\n")
        for name, (_, summary) in subs.items():
            print(f"  {name:<{width}}  {summary}")
        return 0
    if argv[0] not in subs:
        raise UnknownName(f"subcommand of {command}", argv[0], subs)
    return subs[argv[0]][0](argv[1:])
