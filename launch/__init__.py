"""The roof: the command line, and everything that starts processes. Nothing of ours imports it."""
