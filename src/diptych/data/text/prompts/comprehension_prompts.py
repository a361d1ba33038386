"""Requests by which STIC (2405.19716) has a model describe images: step by step, in short, and with things that are not there."""

from __future__ import annotations

STEP_BY_STEP = (
    "Please provide a detailed description of the image, focusing on the following. \n"
    "    Identify the main subjects (people, animals, objects) in the image and describe what they are doing.\n"
    "    Describe the setting of the image. Is it indoors or outdoors? What kind of environment or location "
    "does it depict? \n"
    "    What mood does the image convey? Are there any specific elements (such as lighting, weather, "
    "expressions) that contribute to this atmosphere? \n"
    "    Describe the dominant colors and the overall composition. How do these elements affect the image's "
    "impact?\n"
    "    Point out any details or symbols that might be relevant to understanding the image's meaning or "
    "context.\n"
    "    If applicable, provide interpretations of what the image might represent or communicate."
)
"""Asks for the preferred description; line breaks and indents as published."""
NEUTRAL = (
    "Illustrate the details of the picture.",
    "Summarize the visual content presented.",
    "Explain what is depicted in the photograph.",
    "Outline the key elements captured in the image.",
    "Detail the composition and subjects within the frame.",
    "Convey the atmosphere and mood represented in the snapshot.",
    "Interpret the scene shown in the image.",
    "Identify and describe the main focal points in the visual.",
)
"""Short requests, which stand before both descriptions of a pair."""
IMAGINATIVE = (
    "Describe the image with imaginative objects that may exist in the scene.",
    "Enrich the description by adding hypothetical objects or characters that could be part of the scene.",
    "Suggest and detail practical items or people that could logically inhabit the image's setting.",
    "Incorporate elements that, though absent, would seamlessly fit into the context of the picture.",
    "Imagine and describe additional everyday objects or activities taking place just out of frame.",
    "Augment the scene with details of potential events or items that are plausible.",
    "Conceive of and detail natural elements, such as weather or animals, that could realistically enter "
    "the scene. Make the description affirmative.",
    "Invent and incorporate details of practical tools, vehicles, or gadgets that could be expected in a similar scenario.",
)
"""Requests for a description of things that are not there."""
DESCRIBE_FIRST = "Detail the composition and subjects within the frame."
"""Asks for the description that comes before a question when the model describes and then responds."""
DESCRIPTION = "Image description:\n{description}\n\n{question}"
"""A question after the model's own description of its image."""


def with_description(question: str, description: str) -> str:
    """A question with the description of its image before it.

    >>> with_description("How many?", "Two cups.")
    'Image description:\\nTwo cups.\\n\\nHow many?'
    """
    return DESCRIPTION.replace("{question}", question).replace("{description}", description)
