"""Goals in symbols, and plans that reach them: predicates of objects, five household domains, a classical planner (extra `planning`)."""
