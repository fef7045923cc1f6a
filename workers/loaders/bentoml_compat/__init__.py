"""The names by which a service.py of BentoML imports what is in `workers.loaders.bentoml_sdk`."""
