r"""Prompts of Q-Spatial Bench (Liao et al., 2024, arXiv 2409.09788): the form of the answer, and four ways to put the question."""

from __future__ import annotations

SYSTEM = (
    "You will be provided with a question and a 2D image. The question involves measuring the precise distance in 3D space through a 2D "
    "image. You will answer the question by providing a numeric answer consisting of a scalar and a distance unit in the format of "
    '"""\\scalar{scalar} \\distance_unit{distance unit}""" at the end of your response.'
)
STEPS = '''
---

Use the following 4 steps sequentially to answer the question:

Step 1 **Analyze the question**

Step 2 **Identify up to 10 reference scales in the image, ranging from large to small sizes, and list them in the specified format**
- A reference scale must be typical in size.
- A reference scale can be the dimensions of an object or an object part.
- A reference scale must NOT be floor tiles or floor planks.
- Formulate the reference scales using the format: """The [choose from front-to-back, side-to-side, left-to-right, diameter, height \
(top to bottom edge), or mounting height (bottom edge to floor)] of [object or object part] is approximately [dimension estimate]."""

Step 3 **Propose a robust step-by-step plan to answer the question by using the reference scales in Step 2**
- A robust step-by-step plan performs the estimation in a coarse-to-fine manner.
    - First, use a reliable and large-sized reference scale as the primary reference for estimation.
    - Then, gradually use a reliable and smaller-sized reference scale for adjustment.
    - Repeat until the estimation is precise enough.
- When performing visual comparison, be aware of perspective distortion.
- Do NOT rely on pixel measurements from the images.

Step 4 **Focus on the image and follow the plan in Step 3 to answer the question**'''
PROMPTS = {
    "standard": "",
    "zero_shot": "Let's think step by step.",
    "single": "Let's think step by step and start by finding good reference objects or object parts in the image.",
    "steps": STEPS,
}
SLIP = ("think step by step and start", "thinkg step by step and start")
"""As the published prompt has it."""


def prompt_of(name: str, question: str, *, released: bool) -> str:
    """Prompt of a question; `released` keeps a slip of the published wording.

    >>> prompt_of("zero_shot", "How wide is the door?", released=True)
    "Question: How wide is the door?\\nLet's think step by step."
    """
    behind = PROMPTS[name].replace(*SLIP) if released else PROMPTS[name]
    return f"Question: {question}\n{behind}" if behind else f"Question: {question}"
