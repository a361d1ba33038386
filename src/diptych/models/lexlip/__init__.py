"""LexLIP: pictures and texts as weights over the words of a vocabulary."""
