"""ViLT: one transformer over the words of a text and the patches of a picture."""
