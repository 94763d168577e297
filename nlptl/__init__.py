"""Transfer learning on text: pretrained encoders, classification heads, and control over what is trained."""
