"""Model archives as `torch-model-archiver` makes them."""

import subprocess
import sys
from pathlib import Path

#: The seed handler of many tutorials, as it runs: the archive has a serializedFile, and bodies may be JSON or bytes.
SCORES = """
import json
import torch
from ts.torch_handler.base_handler import BaseHandler

class Scores(BaseHandler):
    def initialize(self, context):
        properties = context.system_properties
        self.manifest = context.manifest
        path = f"{properties['model_dir']}/{self.manifest['model']['serializedFile']}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = torch.jit.load(path, map_location=self.device)
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
            {"prediction": one.item(), "confidence": row[one].item(), "probabilities": row.tolist()}
            for one, row in zip(best, probabilities)
        ]
"""

#: Says what it was given, and does what it is asked to.
ECHO = """
import json
import os
import time
from ts.utils.util import PredictionException

class Echo:
    calls = 0

    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"described": True}]
        Echo.calls += 1
        return self.answers([self.one(index, element, len(data)) for index, element in enumerate(data)])

    def answers(self, answers):
        if "tuple" in answers: return tuple(answers)
        if "short" in answers: return answers[1:]
        return answers

    def one(self, index, element, size):
        context = self.context
        body = element.get("body")
        match body:
            case "raise": raise ValueError("asked to")
            case "memory": raise MemoryError
            case "refuse": raise PredictionException("no such label", 404)
            case "teapot": context.set_response_status(418, "I'm a teapot", index)
            case "header": context.set_response_header(index, "x-said", "yes")
            case "png":
                context.set_response_content_type(index, "image/png")
                return b"\\x89PNG"
            case "bytes": return bytearray(b"\\x00\\x01")
            case "config": return context.model_yaml_config
            case "object": return object()
            case "where": return context.system_properties["model_dir"]
            case "named": return context.get_request_header(index, "X-Name")
            case "explained": return context.get_request_header(index, "explain")
            case "size": return size
            case {"until": file}:
                while not os.path.exists(file): time.sleep(0.01)
                return "held"
            case "tuple" | "short": return body
        return {name: [type(value).__name__, value.decode("latin-1") if isinstance(value, bytearray) else value]
                for name, value in element.items()}
"""


def archive(folder: Path, name: str, handler: str, *, version: str = "1.0", **files: str | Path) -> Path:
    """`folder/NAME.mar`. `handler`: a file's text, or a built-in name; `files` by option: serialized_file, …"""
    folder.mkdir(parents=True, exist_ok=True)
    if "\n" in handler:
        path = folder / f"{name}_handler.py"
        path.write_text(handler)
        handler = str(path)
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
    command += ["--handler", handler, "--export-path", str(folder), "--force"]
    for option, file in files.items():
        command += [f"--{option.replace('_', '-')}", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder / f"{name}.mar"
