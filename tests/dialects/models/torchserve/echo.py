"""What a handler sees of a request, and each thing it may say to it: the body names which."""

import os
import time

from ts.utils.util import PredictionException


class Echo:
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"described": context.model_name}]
        answers = [self.answer(index, element, len(data), context) for index, element in enumerate(data)]
        if "text" in answers:
            return "text"
        if "short" in answers:
            return answers[1:]
        if "long" in answers:
            return [*answers, "one more"]
        return answers

    def answer(self, index, element, size, context):
        asked = element.get("body")
        asked = asked.get("do") if isinstance(asked, dict) else None
        match asked:
            case "raise":
                raise ValueError("asked to")
            case "memory":
                raise MemoryError("asked to")
            case "cuda":
                raise RuntimeError("CUDA out of memory, or so")
            case "refuse":
                raise PredictionException("no such label", 404)
            case "status":
                context.set_response_status(422, "Unprocessable", index)
                return {"why": "asked to"}
            case "all":
                context.set_all_response_status(429, "Slow down")
            case "type":
                context.set_response_content_type(index, "image/png")
                return bytearray(b"\x89PNG")
            case "header":
                context.set_response_header(index, "x-said", "yes")
            case "bytes":
                return b"\x00\xff"
            case "str":
                return "just text"
            case "number":
                return 7
            case "float":
                return 0.5
            case "none":
                return None
            case "true":
                return True
            case "list":
                return [1, [2.5, "x"], None]
            case "object":
                return object()
            case "nan":
                return {"value": float("nan")}
            case "size":
                return {"size": size}
            case "config":
                return context.model_yaml_config
            case "manifest":
                model = context.manifest["model"]
                return {key: model[key] for key in sorted(model)} | {"runtime": context.manifest["runtime"]}
            case "properties":
                properties = context.system_properties
                return {key: properties[key] for key in ("gpu_id", "batch_size", "server_name", "server_version")}
            case "header in":
                return {"named": context.get_request_header(index, "X-Name")}
            case "explained":
                return {"explain": context.get_request_header(index, "explain")}
            case "path":
                return {"path": context.get_request_header(index, "url_path")}
            case "id":
                return {"has one": bool(context.get_request_id(index))}
            case "text" | "short" | "long":
                return asked
            case "sleep":
                time.sleep(2.5)
            case "exit":
                os._exit(3)
        return {
            name: [type(value).__name__, value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else value]
            for name, value in element.items()
        }
