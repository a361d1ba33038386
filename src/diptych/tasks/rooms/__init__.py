"""Tasks about things in rooms: which one a sentence means, where they are, captions of each, and questions."""
