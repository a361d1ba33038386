"""Sentences for goals in a kitchen: instructions, and intents that name what is wanted and not what is to be done."""

from __future__ import annotations

from diptych.data.planning.goals import Goal
from diptych.worlds.rendered import SceneRandom

PREFIXES = ("", "please ", "could you ", "now ")
NAMED: dict[str, tuple[str, ...]] = {
    "contain": ("put the {s} into the {o}", "move the {s} to the {o}", "take the {s} and set it down in the {o}"),
    "hand": ("give me the {s}", "bring me the {s}", "hand over the {s}"),
    "cut": ("cut the {s} with the {o}", "take the {o} and slice the {s}", "chop the {s} with the {o}"),
    "clean": ("wash the {s} in the {o}", "rinse the {s} in the {o}", "set the {s} in the {o} and turn the faucet on"),
    "cook": ("cook the {s} in the {o}", "heat the {s} with the {o}", "move the {s} to the {o} and turn it on"),
}
UNNAMED: dict[str, tuple[str, ...]] = {
    "contain": ("put the {s} away", "store the {s} somewhere", "find a place for the {s}"),
    "cook": ("cook the {s}", "heat the {s}", "make the {s} hot"),
}
INTENTS: dict[str, tuple[str, ...]] = {
    "hand": ("I need the {s}", "I am looking for the {s}"),
    "cut": ("I would like slices of {s}", "I am in the mood for sliced {s}"),
    "clean": ("the {s} is dirty", "the {s} has not been washed"),
}
UNNAMED_INTENTS: dict[str, tuple[str, ...]] = {
    "contain": ("the {s} should not lie around", "I do not want to see the {s} lying there"),
    "cook": ("I would like a cooked {s}", "I am hungry and want warm {s}"),
}


def sentence(goal: Goal, dice: SceneRandom, *, intent: bool, tool_named: bool) -> tuple[str, Goal]:
    """A sentence for a goal among things that are all there, and the goal as the sentence names it ("" for what it leaves open).

    intent        an intent, if there are some for the goal; else an instruction
    tool_named  whether "contain" and "cook" say where; the others always mean one tool
    """
    kind = "hand" if goal.object == "hand" else goal.predicate
    open_ended = not tool_named and kind in UNNAMED
    intents = UNNAMED_INTENTS if open_ended else INTENTS
    if intent and kind in intents:
        words = dice.pick(intents[kind])
    else:
        words = dice.pick(PREFIXES) + dice.pick((UNNAMED if open_ended else NAMED)[kind])
    text = words.format(s=goal.subject, o=goal.object)
    return text, Goal(goal.predicate, goal.subject, "" if open_ended else goal.object)
