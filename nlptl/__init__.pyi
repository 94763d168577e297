"""The public names, each with the module it comes from: the one list, which type checkers and `__init__.py` read."""

from nlptl.classification import train_classifier as train_classifier
from nlptl.config import HeadConfig as HeadConfig
from nlptl.config import ReadingConfig as ReadingConfig
from nlptl.config import TrainingConfig as TrainingConfig
from nlptl.config import TransferConfig as TransferConfig
from nlptl.data.sources import Examples as Examples
from nlptl.data.splits import Splits as Splits
from nlptl.data.splits import load_splits as load_splits
from nlptl.errors import ConfigError as ConfigError
from nlptl.errors import DataError as DataError
from nlptl.errors import NonFiniteError as NonFiniteError
from nlptl.errors import PeerLostError as PeerLostError
from nlptl.errors import ResourceError as ResourceError
from nlptl.errors import UntrustedFileError as UntrustedFileError
from nlptl.errors import UserError as UserError
from nlptl.estimator import TextClassifier as TextClassifier
from nlptl.evaluation.metrics import Score as Score
from nlptl.labels import Labels as Labels
from nlptl.model.classifier import Classifier as Classifier
from nlptl.tasks.kinds import make_task as make_task
from nlptl.tasks.multi_label import MultiLabel as MultiLabel
from nlptl.tasks.ordinal import Ordinal as Ordinal
from nlptl.tasks.regression import Regression as Regression
from nlptl.tasks.single_label import Prediction as Prediction
from nlptl.tasks.single_label import SingleLabel as SingleLabel
from nlptl.tasks.tokens import TokenLabels as TokenLabels
from nlptl.training.interruption import stop_on_signals as stop_on_signals
from nlptl.training.run import Run as Run
from nlptl.training.trainer import Trainer as Trainer

__version__: str
__all__: list[str]
