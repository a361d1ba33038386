"""Chat-3D v2 on rendered rooms: answers by identifiers against answers by coordinates."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.rooms import ANCHOR, DESCRIBED, TESTED, ChattedRooms, NamedThing
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.data.points.room_chat_prompts import ChatPrompt
from diptych.recipes.points.chat3d_v2 import Chat3Dv2


def claims() -> tuple[Claim, ...]:
    chat = replace(
        Chat3Dv2.tiny(), language_model=f"small:{ANCHOR}", tasks=("grounding",), object_share=0.0, scene_share=0.0, steps=40
    )
    centres = replace(chat, prompt=ChatPrompt(form="tokens", named_by="centres"))
    rates = around(chat.lr)
    return (
        declare(
            slug="chat3d_v2",
            sentence="A language model that answers with identifiers of things finds what a sentence means more often than one that "
            "answers with coordinates",
            baseline=Arm("coordinates", ChattedRooms(centres), rates),
            method=Arm("chat3d_v2", ChattedRooms(chat), rates),
            controls=(
                Arm("untrained", ChattedRooms(chat, learns=False)),
                Arm("words of class, colour and size", NamedThing("words")),
                Arm("any thing", NamedThing("chance")),
            ),
            metric="test",
            margins=0.02,
            data=f"{DESCRIBED} rendered rooms of 5 to 9 things with two descriptions each, {TESTED} others to test",
            source="2312.08168: identifiers let a language model refer to things (ScanRefer)",
            reported=("multiple",),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
