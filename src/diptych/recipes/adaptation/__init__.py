"""Systems that adapt a trained dual encoder: prompts, dense maps, video."""
