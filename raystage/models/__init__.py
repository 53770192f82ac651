"""What is trained: a family is a transformers class and a table of its axes."""
