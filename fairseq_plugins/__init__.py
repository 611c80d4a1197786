"""fairseq plug-ins of seqdistill: give this folder to ``--user-dir``.

Importing it registers the tasks ``ensemble_teacher_translation`` and
``ensemble_teacher_speech_to_text``, the criteria of ``criterions/``, the optimizer ``sgld`` and the
schedule ``cyclical``, and allow-lists the few globals that fairseq's own checkpoints hold, so that
they load on torch ≥ 2.6 without switching its safe loading off.
"""

import seqdistill
from fairseq_plugins.version import __version__

if seqdistill.__version__ != __version__:
    # A checkout's --user-dir beside another installed core would run half old, half new code.
    raise ImportError(
        f"--user-dir {__path__[0]} belongs to seqdistill {__version__}, but the installed core is "
        f"{seqdistill.__version__}. Use the folder that `seqdistill fairseq-user-dir` prints, or "
        "install this checkout (pip install -e .)."
    )

from fairseq_plugins import checkpoints, cpu_ddp, numpy_names

checkpoints.allow_list_fairseq_globals()
cpu_ddp.install()
numpy_names.install()

# fairseq imports tasks/ and models/ of a --user-dir by itself, criterions/ it does not; and none
# of them when this package is imported from Python.
from fairseq_plugins import criterions, sampling, tasks  # noqa: E402, F401
