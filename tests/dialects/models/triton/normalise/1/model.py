import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Mean 0 and deviation 1, in the type that the configuration names."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        output = pb_utils.get_output_config_by_name(config, "OUTPUT")
        self.dtype = pb_utils.triton_string_to_numpy(output["data_type"])

    def execute(self, requests):
        responses = []
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            scaled = (data - data.mean()) / data.std()
            tensor = pb_utils.Tensor("OUTPUT", scaled.astype(self.dtype))
            responses.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
        return responses

    def finalize(self):
        print("normalise has ended")
