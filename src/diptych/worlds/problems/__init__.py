"""Generated problems: Sudoku, short stories, jumps between nearest things."""
