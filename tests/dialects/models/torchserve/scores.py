"""The handler of many tutorials, as it runs: a TorchScript file, and features as JSON or as a file of it."""

import json
import os

import torch
from ts.torch_handler.base_handler import BaseHandler


class Scores(BaseHandler):
    def initialize(self, context):
        self.manifest = context.manifest
        properties = context.system_properties
        file = os.path.join(properties.get("model_dir"), self.manifest["model"]["serializedFile"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = torch.jit.load(file, map_location=self.device)
        self.model.eval()
        self.initialized = True

    def preprocess(self, data):
        rows = []
        for row in data:
            features = row.get("data") or row.get("body")
            if isinstance(features, (bytes, bytearray)):
                features = json.loads(features)
            rows.append(torch.tensor(features["features"], dtype=torch.float32))
        return torch.stack(rows).to(self.device)

    def inference(self, data):
        with torch.no_grad():
            return self.model(data)

    def postprocess(self, outputs):
        probabilities = torch.softmax(outputs, dim=1)
        best = torch.argmax(probabilities, dim=1)
        return [
            {
                "prediction": one.item(),
                "confidence": round(row[one].item(), 4),
                "probabilities": [round(value, 4) for value in row.tolist()],
            }
            for one, row in zip(best, probabilities)
        ]
