"""``diptych run SLUG``: run a pipeline. Options are its roles, its configuration, and the fields of its request."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from diptych.cli.options.flat import flat, select_fields
from diptych.cli.options.meaning import documented
from diptych.cli.options.output import DEVICE, existing_file, finish, parse
from diptych.core.contracts import Pipeline, Role, VectorIndex
from diptych.core.errors import ConfigError
from diptych.core.image import FileImage, ImageSource
from diptych.core.registry import PIPELINES


@dataclass(frozen=True)
class RunOutputArgs:
    out: Annotated[Path | None, arg(help="output picture, if the pipeline draws one (.png)")] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, PIPELINES))
        print("usage: diptych run PIPELINE [options]\n")
        for name, entry in PIPELINES.items():
            print(f"  {name:<{width}}  {entry.about}")
        return 0
    kind: Any = PIPELINES.load(argv[0])
    own = make_dataclass("Own", [(f.name, _hints(kind)[f.name], _same_default(f)) for f in _configuration(kind)], frozen=True)
    own.__doc__ = kind.__doc__
    parts = [_request_options(kind.request), own, _roles(kind.roles), RunOutputArgs]
    args: Any = parse(
        flat("Run", [(part, None) for part in parts]), argv[1:], f"run {kind.slug}", (kind.__doc__ or "").partition("\n")[0]
    )
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {args.out} (expected a file that ends in .png)")
    from diptych.pipelines.roles import start

    with ExitStack() as opened:
        pipeline: Pipeline = start(kind, _actors_by_role(kind.roles, args, opened), **select_fields(own, args))
        answer = pipeline.run(kind.request(**_pictures(kind.request, args)))
    lines = list(answer.lines())
    if args.out is not None:
        lines.append(f"picture: {_write_picture(kind.slug, answer, args.out)}")
    return finish(answer.to_json(), lines, args.json)


def _write_picture(slug: str, answer: Any, out: Path) -> Path:
    """Writes the picture of an answer."""
    if not callable(getattr(answer, "picture", None)):
        raise ConfigError(f"pipeline '{slug}' draws no picture (expected no --out)")
    from diptych.data.media.decode import encode_png

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(encode_png(answer.picture()))
    return out


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _configuration(kind: Any) -> list[Field[Any]]:
    roles = {role.name for role in kind.roles}
    return [item for item in fields(kind) if item.name not in roles]


def _same_default(item: Field[Any]) -> Any:
    return field(default=item.default, default_factory=item.default_factory)


def _is_picture(hint: Any) -> bool:
    return ImageSource in (typing.get_args(hint) or (hint,))


def _request_options(request: type[Any]) -> type[Any]:
    """The request with a path for each picture; a field of one letter has a short option, too."""
    hints, words = _hints(request), documented(request)
    made = []
    for item in fields(request):
        hint: Any = hints[item.name]
        if _is_picture(hint):
            hint = Path if item.default is MISSING else Path | None
        short = [f"-{item.name}"] if len(item.name) == 1 else None
        made.append((item.name, Annotated[hint, arg(help=words.get(item.name), aliases=short)], _same_default(item)))
    return make_dataclass("Asked", made, frozen=True)


def _roles(roles: Sequence[Role]) -> type[Any]:
    """An option for each role; for an index a second one."""
    made: list[tuple[str, Any, Any]] = []
    for role in roles:
        what = "FOLDER" if role.many else "INDEX" if role.needs is VectorIndex else "MODEL"
        hint = Annotated[str, arg(metavar=what, help=role.about)]
        made.append((role.name, hint, field(default="") if role.optional else field()))
        if role.needs is VectorIndex:
            moved = Annotated[str, arg(metavar="MODEL", help=f"the model of the {role.name}, if it moved since that was built")]
            made.append((f"{role.name}_model", moved, field(default="")))
    return make_dataclass("Roles", made, frozen=True)


def _actors_by_role(roles: Sequence[Role], args: Any, opened: ExitStack) -> dict[str, Any]:
    """The addresses by role; indexes are open until the end of `opened`."""
    given: dict[str, Any] = {role.name: getattr(args, role.name) for role in roles}
    for role in roles:
        if role.needs is VectorIndex and given[role.name]:
            from diptych.api import open_index

            index = open_index(given[role.name], model=getattr(args, f"{role.name}_model"))
            given[role.name] = opened.enter_context(index)
    return given


def _pictures(request: type[Any], args: Any) -> Mapping[str, Any]:
    values, hints = select_fields(request, args), _hints(request)
    for name, value in values.items():
        if _is_picture(hints[name]) and value is not None:
            values[name] = FileImage(existing_file(value))
    return values
