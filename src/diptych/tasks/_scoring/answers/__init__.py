"""Free-text answers of generative models: prompting, parsing, matching and judging."""
