"""The one tree of errors: each says what was expected, what came and what to do next.

WordsightError
├── ImageError          a file or array that cannot be read as an image
│   └── ImageTooLarge   a header that announces more pixels than the limit
├── DataError           folders, manifests, splits, support sets
├── PromptError         prompt sets and state words
├── MetricError         arrays that no metric can be computed from
├── WeightsError        checkpoint files: missing, unexpected or misshapen keys, unsafe content
├── SettingsError       a setting outside its range, or two that contradict each other
└── TrainingError       a run that cannot start, go on or be resumed
"""


class WordsightError(Exception):
    """Base of every error that wordsight raises on purpose; the command line prints it and exits with 2."""


class ImageError(WordsightError):
    """A file or array cannot be read as an image."""


class ImageTooLarge(ImageError):
    """A header announces more pixels than the limit; nothing was allocated."""


class DataError(WordsightError):
    """A folder, manifest, split or support set is not what was expected."""


class PromptError(WordsightError):
    """A prompt set or a list of state words is empty or malformed."""


class DataWarning(UserWarning):
    """Something in a folder is not used."""


class PromptWarning(UserWarning):
    """A prompt is read otherwise than it was written."""


class MetricError(WordsightError):
    """Labels, scores or maps do not fit together."""


class WeightsError(WordsightError):
    """A weights file has missing, unexpected or misshapen tensors, or holds what is not plain data."""


class SettingsError(WordsightError):
    """A setting lies outside its range or contradicts another one."""


class TrainingError(WordsightError):
    """A training run cannot start, go on or be resumed."""
