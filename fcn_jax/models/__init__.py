"""The networks, by name; each is imported when it is made."""

from fcn_jax.models.registry import MODELS as MODELS
from fcn_jax.models.registry import Network as Network
from fcn_jax.models.registry import create_model as create_model
from fcn_jax.models.registry import register_model as register_model
