"""Problems that take several steps of reasoning: their forms, their rules, and the files in which they are published."""
