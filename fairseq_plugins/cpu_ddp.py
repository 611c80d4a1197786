"""Let fairseq's ``--ddp-backend pytorch_ddp`` run on CPU processes.

fairseq hands ``device_ids=[device_id]`` to torch's DistributedDataParallel, which refuses it for
modules on the CPU. The name that fairseq looks up is replaced by a class that leaves the ids away
for such modules and nothing else.
"""

from typing import Any

from fairseq.models import distributed_fairseq_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class CpuAwareDistributedDataParallel(DistributedDataParallel):
    """torch's DistributedDataParallel; device ids are dropped for a module on the CPU."""

    def __init__(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs["device_ids"] = kwargs["output_device"] = None
        super().__init__(module, *args, **kwargs)


def install() -> None:
    """Make fairseq use :class:`CpuAwareDistributedDataParallel`."""
    distributed_fairseq_model.DistributedDataParallel = CpuAwareDistributedDataParallel
