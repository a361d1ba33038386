"""English in captions: parts of speech, noun phrases, who does what to whom, and captions that are wrong in one thing."""
