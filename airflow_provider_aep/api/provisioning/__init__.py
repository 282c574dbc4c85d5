"""An export as the user wants it, and how it comes to be at Adobe exactly once."""
