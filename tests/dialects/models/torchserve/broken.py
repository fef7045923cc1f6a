"""A handler whose model cannot be loaded."""


class Broken:
    def initialize(self, context):
        raise FileNotFoundError("its weights are missing")

    def handle(self, data, context):
        return data
