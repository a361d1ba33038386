"""Several recipes or models on the same data: cells, paired differences, costs, what more seeds would show."""
