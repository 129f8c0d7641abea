"""A trained network in use: prediction, sliding windows, resizing, export."""
