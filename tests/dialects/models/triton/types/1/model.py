import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What came, of every type, in the order of the configuration."""

    def initialize(self, args):
        self.names = [one["name"] for one in json.loads(args["model_config"])["input"]]

    def execute(self, requests):
        responses = []
        for request in requests:
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.names}
            outputs = [pb_utils.Tensor(f"{name}_OUT", array) for name, array in arrays.items()]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses
