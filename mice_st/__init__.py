"""mice-st: Minimal Interaction Cross-Encoders for sentence-transformers.

Importing the package registers MICE with transformers' Auto classes, so that folders and Hub repositories of MICE load
with the installed code.
"""

from transformers import AutoConfig, AutoModelForSequenceClassification

from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.modeling.modeling_mice import MiceForSequenceClassification

AutoConfig.register(MiceConfig.model_type, MiceConfig, exist_ok=True)
AutoModelForSequenceClassification.register(MiceConfig, MiceForSequenceClassification, exist_ok=True)

from mice_st.conversion.convert import convert  # noqa: E402  (they load models, so the classes must be registered first)
from mice_st.cross_encoder import MiceCrossEncoder  # noqa: E402

__version__ = "0.1.0"
__all__ = ["DocumentStates", "MiceConfig", "MiceCrossEncoder", "MiceForSequenceClassification", "convert"]
