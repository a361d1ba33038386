"""What a verdict most likely means, in a sentence or two, written after it; a guess is called one.

Kept apart from the claims, since a word changed there would make the verdict stale.
"""

from __future__ import annotations

REMARKS: dict[str, str] = {
    "clip/combinations": (
        "Not shown, most likely because 400 steps teach little of 64 nouns: even combinations of training are named in 5 to 8 % only. "
        "Untrained towers may give one name to everything, which by chance was right for a tenth of the pictures under one seed."
    ),
    "siglip": (
        "Reversed, in a setting that is short for both: after 160 steps the softmax is at .018 and the sigmoid at .008. A guess: the "
        "published start (bias -10) spends the first steps on pushing everything apart, and more steps are needed to see its "
        "advantage."
    ),
    "rlipv2": (
        "Shown small: recall of unseen names is .05 to .18 where names of training reach .51 to .57; a table of free vectors finds "
        "none of them but by chance. More steps raise both."
    ),
    "rlipv2/quality": (
        "Not shown. Boxes that are off by up to a quarter still overlap the true ones by more than half, so that a query rarely "
        "learns a wrong pair; softer targets then change the level of scores more than their order, and recall at 5 sees only the "
        "order."
    ),
    "growclip": (
        "Shown large: the 250 steps of the small model count for nothing here, as they were paid before the data came, while a new "
        "model of two layers needs about as many steps before it retrieves anything."
    ),
    "growclip/fixed": (
        "Reversed: the small model can nearly solve this world (recall .95), so its twice as many steps are worth more than a second "
        "block. At equal steps instead of equal compute the grown model may well be ahead; that was not asked."
    ),
    "rlipv2/fusion_many": (
        "Shown large, with late fusion at .22 to .33 and ALIF at .36 to .46. A guess: where nine in ten names of a list are never "
        "right, an encoder that has read the list need not keep everything apart that no name asks for. (Taken when late fusion read "
        "its boxes off the decoder; it reads them off the fused queries now.)"
    ),
    "laion": (
        "Shown large: half of the whole pool tells lies, and of what agrees with a model of 1,000 trusted pairs one or two in a "
        "hundred do. That scoring model is what makes this possible, and its own steps are not counted."
    ),
    "laion/size": (
        "Shown large for the same reason: rows drawn by chance are as wrong as the pool, and there are fewer of them."
    ),
    "metaclip": (
        "Shown: the rarest third of kinds gains most, and over 300 steps the frequent ones lose nothing by being seen less often."
    ),
    "mrl": (
        "Shown for the first 4 numbers, at a price: with all 64 numbers MRL reaches .35 to .47 where CLIP reaches .53 to .62 in the "
        "same steps, and from 16 numbers on CLIP cut short is ahead. More steps may close that; the paper's price at full width is "
        "small."
    ),
    "align/size": ("Shown: at equal steps and equal noise, more pairs are worth more than seeing fewer of them more often."),
    "ctp": (
        "Shown. A part of it is learning: right after the first task CTP retrieves .51 to .64 of it, plain training .38 to .48. But "
        "it also loses less of that over the three tasks that follow, and pays nothing for it on the last one here."
    ),
    "ctp/vendors": (
        "Shown, at a price: .33 to .37 of the first vendor against .13 to .18, but of the last one .75 to .80 against .94 to .97, and "
        "over all vendors together fine-tuning stays ahead (.64 to .67 against .54 to .59), as later vendors show the same concepts."
    ),
    "rlipv2/fusion_nouns": (
        "Reversed: with 48 nouns, late fusion reaches .37 to .45 and ALIF .28 to .38. A guess: frozen vectors of red circle and blue "
        "circle are close, and an image that takes them in early gets noise where the classifier alone would do; together with the "
        "claim on many names it says that early fusion pays where lists are long. (Taken when late fusion read its boxes off the "
        "decoder; it reads them off the fused queries now.)"
    ),
    "protoclip": (
        "Reversed by a little: both probes stay at about .5, and retrieval falls by a fifth. A guess: 64 clusters of what 24 nouns in "
        "nine places look like are no better targets than the texts, which say it exactly; the paper's texts are noisy."
    ),
    "m3i": (
        "Reversed: the mixture takes half of the patches from each image, and with two small things in it often the very thing that "
        "the text names, so that 300 steps teach little; the same mixture on seed 0 lost as much without any view."
    ),
    "m3i/whole": (
        "Not shown: without the mixture the loss is gone, and so is any gain. Labels for a fifth of the pictures name one of the two "
        "things, which every text names too, and a teacher of 300 steps has little to tell."
    ),
    "tips": (
        "Not shown, and this test could hardly show it: all models end at .32 to .33, most likely because a colour can be read off a "
        "patch of 8 pixels nearly without training and the patches' size bounds the rest. Retrieval suffers (.20 to .37 against .19 "
        "to .49). Shapes in place of colours, and many more steps, would be a harder question."
    ),
    "tips/compute": (
        "Shown by a hair that means nothing in practice (+.003): both sides stand at what patches of this size allow. Trained three "
        "times as long, CLIP retrieves .90 to .94 and its patches know no more of colours."
    ),
    "tldr": (
        "Shown: of a pool that repeats itself, a share of every cluster reaches a few more different scenes than a draw by chance "
        "does, and spreads over each cluster. It needs a codebook that is used: with the published rule alone a captioner from "
        "scratch uses five of 64 codes, and on seed 0 nothing was gained."
    ),
    "tldr/repair": (
        "Reversed, most likely by the form and not by the captions: each training text is the original and then the generated one, "
        "and the text tower learns to read the half that is always right, at places where a query has nothing. At scale, with a "
        "trained text encoder, this may not matter."
    ),
}
