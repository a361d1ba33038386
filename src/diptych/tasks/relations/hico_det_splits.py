"""Zero-shot splits of HICO-DET: the published lists of unseen classes, and the rule behind them for other data.

Positions count from 0 in the order of the 600 classes. The unseen combinations of UC-RF and UC-NF (VCL, Hou et al., 2020) do not
overlap; every object and every verb keeps at least one seen class. UO hides whole objects (the 12 of FCL, Hou et al., 2021).
In training, the *annotations* of unseen classes are removed and the images stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from diptych.data.vocabularies import vocabulary

Triplet = tuple[str, str, str]

UNSEEN_SHARE = 0.2  # 120 of 600

_UC_RF = """
    8 22 27 44 50 55 62 66 70 76 77 80 83 84 90 99 100 104 107 127 135 136 149 158 168 179 181 184 188 189 192
    195 198 205 206 216 222 229 238 239 254 255 257 260 261 262 274 279 280 281 286 289 292 303 311 315 317
    325 333 334 345 350 351 354 358 364 379 381 389 390 391 395 397 398 399 401 402 403 405 407 410 416 418
    427 429 436 439 440 449 463 469 474 482 485 498 499 504 509 517 520 522 526 531 535 539 546 547 548 552
    555 556 560 581 586 592 593 595 596 597 599
"""

_UC_NF = """
    6 7 9 11 18 19 20 23 25 29 38 41 42 45 48 53 54 56 60 61 64 67 73 75 89 91 93 94 106 110 115 131 139 140
    141 146 152 153 154 155 159 162 163 169 173 176 185 190 191 193 197 208 212 215 218 223 226 228 230 240
    245 246 248 249 250 266 284 294 297 304 308 312 320 323 329 337 338 340 346 370 371 374 377 383 385 387
    417 446 455 456 457 459 461 470 471 472 478 479 480 481 483 493 506 508 515 516 518 529 534 544 559 566
    572 575 576 577 582 583 589 594
"""

UNSEEN_OBJECTS = (
    "baseball bat",
    "clock",
    "dog",
    "elephant",
    "frisbee",
    "pizza",
    "refrigerator",
    "skateboard",
    "skis",
    "tennis racket",
    "toothbrush",
    "zebra",
)


def unseen(setting: str) -> tuple[int, ...]:
    """Unseen classes of the published split "uc_rf", "uc_nf" (120 each) or "uo" (100).

    >>> len(unseen("uc_rf")), len(unseen("uc_nf")), len(unseen("uo"))
    (120, 120, 100)
    """
    if setting == "uo":
        return tuple(k for k, (_, _, thing) in enumerate(vocabulary("hico-det").triplets) if thing in UNSEEN_OBJECTS)
    return tuple(map(int, {"uc_rf": _UC_RF, "uc_nf": _UC_NF}[setting].split()))


def unseen_by_count(classes: Sequence[Triplet], counts: Sequence[int], *, rare_first: bool) -> tuple[int, ...]:
    """Unseen classes by training frequency: a fifth, the rarest first or the most frequent first, lower index first on a tie.

    A class is skipped if hiding it would leave its verb or its object without a seen class, so that every part of an unseen
    combination can be learnt; fewer than a fifth are returned if no more can be hidden.
    """
    verbs, things = Counter(verb for _, verb, _ in classes), Counter(thing for _, _, thing in classes)
    hidden: list[int] = []
    for k in sorted(range(len(classes)), key=lambda k: (counts[k] if rare_first else -counts[k], k)):
        if len(hidden) == round(UNSEEN_SHARE * len(classes)):
            break
        _, verb, thing = classes[k]
        if verbs[verb] > 1 and things[thing] > 1:
            verbs[verb] -= 1
            things[thing] -= 1
            hidden.append(k)
    return tuple(sorted(hidden))
