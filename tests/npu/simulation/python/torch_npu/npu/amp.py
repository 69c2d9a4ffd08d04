"""The loss scaler under torch_npu's own name, which looks at the overflow flag as well."""

import torch

from torch_npu.npu.utils import is_support_inf_nan, npu_check_overflow


class GradScaler(torch.amp.GradScaler):
    def __init__(self, *args, **kwargs):
        super().__init__("npu", *args, **kwargs)

    def _unscale_grads_(self, *args, **kwargs):
        found = super()._unscale_grads_(*args, **kwargs)
        if not is_support_inf_nan() and npu_check_overflow(0.0):
            for found_inf in found.values():
                found_inf.fill_(1.0)
        return found
