"""Where older handlers find what is in `handler_utils`."""
