"""Data sets of sentences: rendered scenes, REFER's layout, and what they are built from."""
