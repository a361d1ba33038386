"""Prepositions that steer a relation's word, and words that say nothing of a picture, as relation inversion uses them."""

from __future__ import annotations

_PREPOSITIONS = """
aboard about above across after against along alongside amid amidst among amongst anti around astride at atop before behind
below beneath beside between beyond by down following from in including inside into near of off on onto opposite out outside
over past regarding round through throughout to toward towards under underneath up upon versus with within
"""
_STOP_WORDS = """
a about above after again against all am an and any are as at be because been before being below between both but by can did do
does doing don down during each few for from further had has have having he her here hers herself him himself his how i if in
into is it its itself just me more most my myself no nor not now of off on once only or other our ours ourselves out over own s
same she should so some such t than that the their theirs them themselves then there these they this those through to too under
until up very was we were what when where which while who whom why will with you your yours yourself yourselves
"""
PREPOSITIONS = tuple(_PREPOSITIONS.split())
"""The 56 basic prepositions of ReVersion (2303.13495)."""
STOP_WORDS = tuple(_STOP_WORDS.split())
"""The 127 English stop words of NLTK's older list, as ReVersion has them. Those of `data.text.captions.stop_words` are spaCy's."""
