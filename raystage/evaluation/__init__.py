"""What a model is worth: loss on held-out text, and text of its own."""
