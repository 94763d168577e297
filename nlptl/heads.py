"""Importing this module registers nlptl's heads with transformers.

After it, `AutoModelForSequenceClassification`, `AutoConfig` and `pipeline` load a saved model whose head is not the
architecture's own. `nlptl.Classifier` imports it as well. `import nlptl` alone does not, since it imports no
transformers.
"""

from nlptl.model.headed_config import HeadedConfig
from nlptl.model.heads import HeadedClassifier

__all__ = ["HeadedClassifier", "HeadedConfig"]
