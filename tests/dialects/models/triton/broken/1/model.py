class TritonPythonModel:
    """Never there."""

    def initialize(self, args):
        raise RuntimeError("its weights are missing")

    def execute(self, requests):
        return []
