"""BaseHandler as it is, but for what JSON makes of a tensor."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class Base(BaseHandler):
    def preprocess(self, data):
        rows = [row.get("body") if isinstance(row.get("body"), list) else row["body"]["data"] for row in data]
        return torch.as_tensor(rows, dtype=torch.float32, device=self.device)
