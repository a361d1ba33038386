"""True captions against wrong ones that differ in one thing, in the order of words, or in who does what."""
