"""TF Serving's protocols: REST, and gRPC beside it."""
