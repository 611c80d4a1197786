"""Tasks of the plug-in; fairseq imports every module of this folder by itself."""

from fairseq_plugins.tasks.ensemble_teacher_speech_to_text import EnsembleTeacherSpeechToTextTask
from fairseq_plugins.tasks.ensemble_teacher_translation import EnsembleTeacherTranslationTask

__all__ = ["EnsembleTeacherSpeechToTextTask", "EnsembleTeacherTranslationTask"]
