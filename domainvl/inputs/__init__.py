"""What people have in a notebook, read as the training read it: pictures, volumes, features of slides."""

from domainvl.inputs.base import Inputs
from domainvl.inputs.choice import inputs_of
from domainvl.inputs.pictures import Picture, Pictures
from domainvl.inputs.slides import SlideFeatures
from domainvl.inputs.volumes import Volumes

__all__ = ["Inputs", "Picture", "Pictures", "SlideFeatures", "Volumes", "inputs_of"]
