"""What models answer in words: how they are asked, and what is right."""
