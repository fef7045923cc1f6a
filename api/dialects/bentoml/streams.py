"""An API that yields, answered piece by piece as it does, as TorchServe's replies in parts are.

Where it fails behind its first piece the connection ends without a last chunk, so that nobody takes what came for all.
"""

from api.answers import Answer, BrokenOff, Streamed
from api.dialects.bentoml import errors, replies
from api.dialects.bentoml.routes import Found
from api.dialects.torchserve.parts import Parts
from api.exchange import Call
from api.service import Service
from headway.notices import Ended
from headway.states import Status
from headway.types import Prediction


async def streamed(service: Service, call: Call, found: Found, id_: str, timeout_s: float) -> Answer | Streamed:
    """Of a prediction that has reported something. `timeout_s`: of its call. To be called in the step of the report."""
    failures: list[Answer] = []

    async def ended(end: Ended | Prediction | None) -> Answer:
        if end is None:
            failures.append(errors.too_late(found.timeout_s).answer)
        elif end.status is not Status.SUCCEEDED:
            failures.append(errors.identified(errors.failure(end, timeout_s)))
        else:
            return replies.reply(found, [await replies.output_of(service, id_, end)], single=True)
        raise BrokenOff("the API has failed")

    try:
        answer = await Parts(service, call, id_, found.timeout_s, ended).answer()
    except BrokenOff:
        return failures[-1]
    if isinstance(answer, Answer):
        return errors.identified(answer)
    type_ = (b"content-type", replies.with_charset(found.route.media_type).encode())
    return answer._replace(headers=errors.identified(Answer(200, b"", (type_,))).headers)
