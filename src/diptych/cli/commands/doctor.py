"""``diptych doctor``: what is installed, which device, what is missing for which command, disk, threads, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from diptych.cli.options.output import finish, parse, say


@dataclass(frozen=True)
class DoctorArgs:
    no_speed: Annotated[bool, arg(help="skip the short training, about ten seconds")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        DoctorArgs, argv, "doctor", "What is installed, which device, what is missing for which command, disk, threads, speed."
    )
    from diptych.api.diagnosis import diagnose

    if not args.no_speed:
        say("measuring the speed of a short training: about ten seconds")
    facts = diagnose(speed=not args.no_speed)
    return finish(facts, _lines(facts), args.json)


def _lines(facts: dict[str, Any]) -> list[str]:
    device, disk = facts["device"], facts["disk"]
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    lines = [
        f"python    {facts['python']} on {facts['system']}, {facts['cores']} cores, {facts['memory_gib']:g} GiB",
        f"packages  {packages}",
        f"device    {_device(device)}",
        f"disk      {disk['free_gib']:g} GiB free in {disk['folder']}" + (f"; ! {disk['fault']}" if disk["fault"] else ""),
    ]
    if "speed" in facts:
        lines.append(
            f"speed     clip (tiny) trains on {facts['speed']['pairs_per_second']:,.0f} pairs a second; docs/how-fast.md has "
            "other machines and libraries"
        )
    if facts["variables"]:
        lines.append("set       " + ", ".join(f"{name}={value}" for name, value in facts["variables"].items()))
    missing = [each for each in facts["extras"] if each["missing"]]
    ready = [each["name"] for each in facts["extras"] if not each["missing"]]
    lines.append(f"extras    {', '.join(ready) or 'none'}")
    lines += [
        f"missing   {each['name']:<11}for {each['used_by']}: pip install {' '.join(map(repr, each['missing']))}"
        for each in missing
    ]
    return lines


def _device(device: dict[str, Any]) -> str:
    if device["device"] == "cuda":
        return f"{device['count']} x {device['name']}, {device['memory_gib']:g} GiB each"
    if device["device"] == "cpu":
        return f"processor ({device['class']}), {device['threads']} threads; no CUDA device is there"
    return str(device["device"])
