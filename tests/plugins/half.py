"""Whether the engine can train in float16 here: not every processor has its products."""

import pytest
import torch

HALF: bool = torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
needs_half = pytest.mark.skipif(not HALF, reason="this processor has no float16 products")
