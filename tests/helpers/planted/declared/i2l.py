"""In-Image Learning with a planted model: does an example on the canvas say what a question means, and does it beat captions?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.canvases import ASKED, Canvassed


def claims() -> tuple[Claim, ...]:
    shown = Arm("i2l", Canvassed())
    data = f"{ASKED} rendered squares a seed, asked for colour or side by an example alone; a planted model that reads letters and pixels"
    main = Claim(
        slug="i2l",
        kind="mechanism check",
        sentence="A model that reads canvases answers questions that only a solved example explains, when the example stands on its canvas",
        source="2402.17971: demonstration and question in one image; a planted model, so it shows what the canvas carries and no more",
        refuted="a difference whose interval lies below zero: the example cannot be read from the canvas",
        baseline=Arm("without an example", Canvassed(example="none")),
        method=shown,
        controls=(
            Arm("example of the other rule", Canvassed(example="wrong")),
            Arm("canvas of a twentieth of the area", Canvassed(area=0.05)),
        ),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        metric="accuracy",
        margins=Margins(matters=0.1, equivalence=0.05),
        data=data,
    )
    captions = Claim(
        slug="i2l",
        name="captions",
        kind="mechanism check",
        sentence="The same model answers more questions from the canvas than from captions that say a part of what the pictures show",
        source="2402.17971, against text-only in-context learning, whose captions here name the colour and never the side",
        refuted="a difference whose interval lies below zero",
        baseline=Arm("captions in place of pictures", Canvassed(how="text")),
        method=shown,
        controls=(Arm("captions without an example", Canvassed(how="text", example="none")),),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        metric="accuracy",
        margins=Margins(matters=0.1, equivalence=0.05),
        data=data,
    )
    return main, captions
