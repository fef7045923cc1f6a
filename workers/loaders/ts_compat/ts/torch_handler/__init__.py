"""Handlers to build on."""
