"""Losses as functions of tensors. They know nothing of models or data; several processes they handle themselves.

info_nce        softmax over a batch, both ways: CLIP and its relatives
sigmoid_pairs   a sigmoid for every pair: SigLIP
nested          any of them on prefixes of the features: Matryoshka
pair_set        sets of (subject, relation, object), matched and scored: QPIC, RLIP, RLIPv2; with its parts pair_tensors, matching,
                relation_quality, focal and boxes, which serve other detectors too
"""
