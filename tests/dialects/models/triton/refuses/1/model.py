import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers an error to a request that begins with a negative number, and only to that."""

    def initialize(self, args):
        self.codes = {
            -2: pb_utils.TritonError.UNKNOWN,
            -3: pb_utils.TritonError.INTERNAL,
            -4: pb_utils.TritonError.NOT_FOUND,
            -5: pb_utils.TritonError.INVALID_ARG,
            -6: pb_utils.TritonError.UNAVAILABLE,
            -7: pb_utils.TritonError.UNSUPPORTED,
            -8: pb_utils.TritonError.ALREADY_EXISTS,
            -9: pb_utils.TritonError.CANCELLED,
        }

    def execute(self, requests):
        responses = []
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "N").as_numpy()
            first = int(numbers.flatten()[0])
            if first == -1:
                error = pb_utils.TritonError("no number below zero")
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
            elif first in self.codes:
                error = pb_utils.TritonError(f"refused with {first}", self.codes[first])
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
            else:
                twice = pb_utils.Tensor("TWICE", numbers * 2)
                responses.append(pb_utils.InferenceResponse(output_tensors=[twice]))
        return responses
