"""The modelling code, installed as ``mice_st.modeling``; its other files are copied into every Hub repository.

Importing any of them registers MICE with transformers' Auto classes: whoever holds a class of MICE also loads folders of it with the
installed code.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from .configuration_mice import MiceConfig
from .modeling_mice import MiceForSequenceClassification, MiceModel

AutoConfig.register(MiceConfig.model_type, MiceConfig, exist_ok=True)
AutoModel.register(MiceConfig, MiceModel, exist_ok=True)
AutoModelForSequenceClassification.register(MiceConfig, MiceForSequenceClassification, exist_ok=True)
