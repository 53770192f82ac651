"""Folders elsewhere: files by URI, through fsspec, with patience for a store that is full or away."""
