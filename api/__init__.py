"""The HTTP front: accepts predictions, answers about them, and lets callers wait. It never loads a model."""
