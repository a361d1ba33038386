"""Losses as functions of tensors, independent of models and data; they handle several processes themselves.

info_nce        softmax over a batch, both ways: CLIP and its relatives
sigmoid_pairs   a sigmoid for every pair: SigLIP
pair_logits     the dense logits of both, to look at or to build on
nested          any of them on prefixes of the features: Matryoshka
topology        a teacher's similarities: open_clip's distillation with a scale for each model, CTP's divergence
prototypes      features against cluster prototypes: ProtoCLIP
self_distillation, koleo   self-distillation from a teacher, on masked patches too, and evenly spread features: DINO, iBOT, TIPS
masked_words    hidden words, or what another model guesses for them
pair_set        sets of (subject, relation, object), matched and scored: QPIC, RLIP, RLIPv2; with its parts pair_tensors, matching,
                relation_quality, focal and boxes, which serve other detectors too
"""
