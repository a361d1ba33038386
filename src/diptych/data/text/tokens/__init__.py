"""What becomes of a text on its way to ids: pieces of words, hidden ones, left-out ones, and where its entities end up."""
