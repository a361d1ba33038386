"""Parts of `socialgpt`: what is seen, the story's and the reasoner's prompts, and the search over segments of a prompt."""
